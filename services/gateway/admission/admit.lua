-- One decision for each task, over every bound at once: refused without any effect, or reserved for ``lease_ms``.
-- ARGV: JSON documents, see ports.Application. Answers a JSON document for each, in order.
local at = now_ms()
lapse(at)

local function decide(ask)
    local tenant, model = P .. 'tenant:' .. ask.tenant, P .. 'model:' .. ask.model

    -- GCRA (ITU-T I.371): a bucket is the time at which it would be empty again. All windows are asked before any is changed.
    local buckets, windows, wait, window = {}, {}, 0, nil
    for i, rate in ipairs(ask.rates) do
        local key = 'atelier:rate:' .. rate.key .. ':' .. rate.seconds
        local step = rate.seconds * 1000 / rate.requests
        local full = tonumber(redis.call('GET', key) or '0')
        -- Nobody can be that far ahead: the clock was put back, and nobody shall wait until it has caught up.
        if full > at + rate.seconds * 1000 + 1 then full = at end
        local after = math.max(full, at) + step
        local early = after - rate.seconds * 1000 - at
        -- Milliseconds are whole and steps are not: half a step of error would refuse the last one of a burst.
        if early > 0.5 then
            if early > wait then wait, window = early, i end
        end
        buckets[i] = { key = key, before = math.max(full, at), after = after, span = rate.seconds * 1000, step = step }
    end

    local waiting = redis.call('SCARD', model .. ':waiting')
    local own_waiting = redis.call('SCARD', tenant .. ':waiting')
    local own_running = redis.call('SCARD', tenant .. ':running')
    local own_work = tonumber(redis.call('GET', tenant .. ':work:' .. ask.model) or '0')
    local model_work = tonumber(redis.call('GET', model .. ':work') or '0')
    local used = tonumber(redis.call('GET', tenant .. ':used:' .. day_of(at)) or '0')

    -- The level falls by one at each of these amounts of work that the tenant has outstanding on this model.
    local level = #ask.falls_at
    for _, outstanding in ipairs(ask.falls_at) do
        if own_work >= outstanding then level = level - 1 end
    end
    local levels = {}
    local fields = redis.call('HGETALL', model .. ':levels')
    for i = 1, #fields, 2 do levels[fields[i]] = tonumber(fields[i + 1]) end
    local ahead, ahead_work = 0, 0
    for at_level = level, #ask.falls_at do
        ahead = ahead + (levels[at_level .. ':n'] or 0)
        ahead_work = ahead_work + (levels[at_level .. ':s'] or 0)
    end

    local code
    local record = read(ask.task)
    -- What is no task takes no place: to the bounds below it is like one that has its place already.
    local known = not ask.takes_place or record or redis.call('EXISTS', P .. 'ended:' .. ask.task) == 1
    -- A request that is repeated is free. A try again is a request of its own, whatever its task's id.
    local charged = ask.again or not ask.takes_place or not known
    if charged and window then
        code = 'rate_limited'
    elseif not known then
        if used + ask.seconds > ask.day_seconds then
            code, wait = 'quota_exceeded', 86400000 - at % 86400000
        elseif own_waiting >= ask.queued or own_waiting + own_running >= ask.queued + ask.concurrency then
            code = 'too_many_tasks'
        elseif waiting >= ask.bound then
            code = 'queue_full'
        end
    end

    charged = charged and not code
    for i, bucket in ipairs(buckets) do
        local filled = (charged and bucket.after or bucket.before) - at
        windows[i] = { math.max(0, math.floor((bucket.span - filled) / bucket.step + 0.001)), math.ceil(filled) }
    end

    if charged then
        for _, bucket in ipairs(buckets) do
            redis.call('SET', bucket.key, string.format('%.3f', bucket.after), 'PX', math.ceil(bucket.span))
        end
    end
    if not code and not known then
        local taken = { tenant = ask.tenant, model = ask.model, seconds = ask.seconds, level = level, rank = 0 }
        open(ask.task, taken, 'reserved', at + ask.lease_ms, at)
    end

    return cjson.encode({
        code = code or 'admitted', wait_ms = math.ceil(wait), window = window or 0, windows = windows,
        waiting = waiting, own_work = own_work, model_work = model_work,
        held = record ~= nil and record.state ~= 'reserved',
        level = level, ahead = ahead, ahead_work = ahead_work, running = levels['r:n'] or 0, running_work = levels['r:s'] or 0,
    })
end

local answers = {}
for i, text in ipairs(ARGV) do answers[i] = decide(cjson.decode(text)) end
return answers
