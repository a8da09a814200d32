-- The ledger of who has what outstanding. Loaded in front of every script that reads or changes it.
--
-- One record per task decides everything: a change is made only together with the record that justifies it, so events
-- may repeat and come late. ``rank`` is attempt * 10 + sequence of the newest event that was applied.
--   <p>tasks                    hash: task id -> record (JSON)
--   <p>expiry                   sorted set: task id -> when its record lapses (ms)
--   <p>model:<m>:waiting        set of task ids               <p>model:<m>:work    GPU-seconds of the model's waiting tasks
--   <p>tenant:<t>:waiting, <p>tenant:<t>:running  sets        <p>tenant:<t>:work   GPU-seconds of the tenant's tasks
--   <p>tenant:<t>:used:<day>    GPU-seconds of the day (UTC), reserved or spent
--   <p>ended:<id>               a task that ended, so that a late event does not bring it back
local P = 'atelier:ledger:'
local USED_KEPT_MS = 2 * 86400 * 1000
local LAPSED_AT_ONCE = 200

local function now_ms()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function add(key, amount, kept_ms)
    local sum = tonumber(redis.call('GET', key) or '0') + amount
    -- Sums of floating point numbers drift; what is nearly nothing is nothing.
    if sum < 0.0005 then
        redis.call('DEL', key)
        return
    end
    redis.call('SET', key, string.format('%.4f', sum))
    if kept_ms then redis.call('PEXPIRE', key, kept_ms) end
end

local function day_of(ms)
    return tostring(math.floor(ms / 86400000))
end

local function read(id)
    local text = redis.call('HGET', P .. 'tasks', id)
    return text and cjson.decode(text) or nil
end

local function place(id, record, state)
    local tenant, model = P .. 'tenant:' .. record.tenant, P .. 'model:' .. record.model
    local was, is = record.state ~= 'running', state ~= 'running'
    if record.state == nil or was ~= is then
        if record.state ~= nil and was then
            redis.call('SREM', model .. ':waiting', id)
            redis.call('SREM', tenant .. ':waiting', id)
            add(model .. ':work', -record.seconds)
        elseif record.state ~= nil then
            redis.call('SREM', tenant .. ':running', id)
        end
        if is then
            redis.call('SADD', model .. ':waiting', id)
            redis.call('SADD', tenant .. ':waiting', id)
            add(model .. ':work', record.seconds)
        else
            redis.call('SADD', tenant .. ':running', id)
        end
    end
    record.state = state
end

local function write(id, record, expiry)
    redis.call('HSET', P .. 'tasks', id, cjson.encode(record))
    redis.call('ZADD', P .. 'expiry', expiry, id)
end

local function open(id, record, state, expiry, at)
    record.day = day_of(at)
    place(id, record, state)
    add(P .. 'tenant:' .. record.tenant .. ':work', record.seconds)
    add(P .. 'tenant:' .. record.tenant .. ':used:' .. record.day, record.seconds, USED_KEPT_MS)
    write(id, record, expiry)
end

local function close(id, record, spent)
    local tenant, model = P .. 'tenant:' .. record.tenant, P .. 'model:' .. record.model
    if record.state ~= 'running' then add(model .. ':work', -record.seconds) end
    redis.call('SREM', model .. ':waiting', id)
    redis.call('SREM', tenant .. ':waiting', id)
    redis.call('SREM', tenant .. ':running', id)
    add(tenant .. ':work', -record.seconds)
    add(tenant .. ':used:' .. record.day, spent - record.seconds, USED_KEPT_MS)
    redis.call('HDEL', P .. 'tasks', id)
    redis.call('ZREM', P .. 'expiry', id)
end

-- A reservation whose queued event never came costs nothing; a task that was heard of and went silent has cost its price.
local function lapse(at)
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. 'expiry', '-inf', at, 'LIMIT', 0, LAPSED_AT_ONCE)) do
        local record = read(id)
        if record then
            close(id, record, record.state == 'reserved' and 0 or record.seconds)
        else
            redis.call('ZREM', P .. 'expiry', id)
        end
    end
end
