-- Take a submission's record, or tell what it says. KEYS[1]: the record. ARGV[1]: JSON, see ports.Claim.
local ask = cjson.decode(ARGV[1])
local time = redis.call('TIME')
local at = time[1] * 1000 + math.floor(time[2] / 1000)
local text = redis.call('GET', KEYS[1])
local record = text and cjson.decode(text) or nil
if record then
    if record.body ~= ask.body then return { 'other' } end
    if record.state == 'accepted' then return { 'accepted', record.task, record.answer } end
    local left = record.at + ask.stale_ms - at
    -- After the clock was set back a record may lie in the future: more than the bound is left, and it is stale, too.
    if record.state == 'in_flight' and left > 0 and left <= ask.stale_ms then
        return { 'in_flight', record.task, left }
    end
end
local again = record ~= nil
local task = again and record.task or ask.task
local taken = { task = task, owner = ask.task, body = ask.body, state = 'in_flight', at = at, again = again }
redis.call('SET', KEYS[1], cjson.encode(taken), 'PX', ask.open_ms)
return { 'held', task, again and 1 or 0 }
