-- How a publish ended. KEYS[1]: the record. ARGV[1]: JSON, see ports.SubmissionRecords.settle.
local ask = cjson.decode(ARGV[1])
local text = redis.call('GET', KEYS[1])
local record = text and cjson.decode(text) or nil
if ask.outcome == 'accepted' then
    -- Whoever published it: an answer is an answer. A record that is gone (Redis lost it) is made anew.
    if not record or record.task == ask.task then
        local answered = { task = ask.task, body = ask.body, state = 'accepted', answer = ask.answer }
        redis.call('SET', KEYS[1], cjson.encode(answered), 'PX', ask.kept_ms)
    end
elseif record and record.state ~= 'accepted' and record.owner == ask.owner then
    if ask.outcome == 'refused' and not record.again then
        redis.call('DEL', KEYS[1])
    else
        record.state = 'open'
        redis.call('SET', KEYS[1], cjson.encode(record), 'PX', ask.open_ms)
    end
end
return 1
