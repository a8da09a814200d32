-- A reservation whose task was not published after all. ARGV[1]: task id. The rate is spent, the place is free again.
local record = read(ARGV[1])
if record and record.state == 'reserved' then
    close(ARGV[1], record, 0)
    return 1
end
return 0
