-- What happened to a task, from its events. ARGV: JSON documents, see redis_ledger.Note.
local at = now_ms()
lapse(at)
for _, text in ipairs(ARGV) do
    local note = cjson.decode(text)
    local record = read(note.task)
    if redis.call('EXISTS', P .. 'ended:' .. note.task) == 1 then
        record = nil
    elseif note.state == 'ended' then
        if record then close(note.task, record, note.spent) end
        redis.call('SET', P .. 'ended:' .. note.task, record and record.quality or '1', 'PX', note.kept_ms)
    elseif not record then
        record = { tenant = note.tenant, model = note.model, seconds = note.seconds, level = note.level, rank = note.rank }
        open(note.task, record, note.state, note.expiry, at)
    elseif note.rank > record.rank then
        record.rank = note.rank
        place(note.task, record, note.state)
        write(note.task, record, note.expiry)
    end
end
return #ARGV
