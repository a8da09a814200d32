-- A lower quality for a task that was admitted, at its lower price, once. ARGV: task id, quality, GPU-seconds.
-- Answers the quality that is settled on.
local at = now_ms()
lapse(at)
local id, quality, seconds = ARGV[1], ARGV[2], tonumber(ARGV[3])
local record = read(id)
if not record then return quality end
if record.quality then return record.quality end
local expiry = redis.call('ZSCORE', P .. 'expiry', id)
local tenant = P .. 'tenant:' .. record.tenant
local change = seconds - record.seconds
count(id, record, -1)
record.quality, record.seconds = quality, seconds
count(id, record, 1)
add(tenant .. ':work:' .. record.model, change)
add(tenant .. ':used:' .. record.day, change, USED_KEPT_MS)
write(id, record, expiry)
return quality
