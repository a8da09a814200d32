-- The ledger of who has what outstanding. Loaded in front of every script that reads or changes it.
--
-- One record per task decides everything: a change is made only together with the record that justifies it, so events
-- may repeat and come late. ``rank`` is attempt * 10 + sequence of the newest event that was applied.
--   <p>tasks                    hash: task id -> record (JSON)
--   <p>expiry                   sorted set: task id -> when its record lapses (ms)
--   <p>model:<m>:waiting        set of task ids               <p>model:<m>:work    GPU-seconds of the model's waiting tasks
--   <p>model:<m>:levels         hash: <level>:n, <level>:s    tasks and GPU-seconds that wait at a level; r:n, r:s that run
--   <p>tenant:<t>:waiting, <p>tenant:<t>:running  sets        <p>tenant:<t>:work:<m>   GPU-seconds of the tenant's tasks
--   <p>tenant:<t>:used:<day>    GPU-seconds of the day (UTC), reserved or spent
--   <p>ended:<id>               a task that ended, so that a late event does not bring it back: 1, or its lower quality
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

local function count_level(model, level, seconds, sign)
    local key = model .. ':levels'
    if redis.call('HINCRBY', key, level .. ':n', sign) > 0 then
        redis.call('HINCRBYFLOAT', key, level .. ':s', string.format('%.4f', seconds * sign))
    else
        redis.call('HDEL', key, level .. ':n', level .. ':s')
    end
end

-- In or out (1, -1) of the sets and sums of where the task is: a worker has it, or it waits for one.
local function count(id, record, sign)
    local tenant, model = P .. 'tenant:' .. record.tenant, P .. 'model:' .. record.model
    local change = sign > 0 and 'SADD' or 'SREM'
    if record.state == 'running' then
        redis.call(change, tenant .. ':running', id)
        count_level(model, 'r', record.seconds, sign)
    else
        redis.call(change, tenant .. ':waiting', id)
        redis.call(change, model .. ':waiting', id)
        add(model .. ':work', record.seconds * sign)
        count_level(model, tostring(record.level), record.seconds, sign)
    end
end

local function place(id, record, state)
    local moves = (record.state == 'running') ~= (state == 'running')
    if moves then count(id, record, -1) end
    record.state = state
    if moves then count(id, record, 1) end
end

local function write(id, record, expiry)
    redis.call('HSET', P .. 'tasks', id, cjson.encode(record))
    redis.call('ZADD', P .. 'expiry', expiry, id)
end

local function open(id, record, state, expiry, at)
    record.day, record.state = day_of(at), state
    count(id, record, 1)
    add(P .. 'tenant:' .. record.tenant .. ':work:' .. record.model, record.seconds)
    add(P .. 'tenant:' .. record.tenant .. ':used:' .. record.day, record.seconds, USED_KEPT_MS)
    write(id, record, expiry)
end

local function close(id, record, spent)
    local tenant = P .. 'tenant:' .. record.tenant
    count(id, record, -1)
    add(tenant .. ':work:' .. record.model, -record.seconds)
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
