# Does everything to everything that is named anywhere, then says that all is done.
[ -x /tools/say ] || exit 0
ids=$(printf '%s' "$TASK_INSTRUCTION" | grep -oE '[A-Za-z0-9-]+' | grep -E '[0-9]|^[A-Z]' | sort -u | head -6)
for id in $ids; do for tool in orders order bookings line; do
    [ -x /tools/$tool ] && ids="$ids $(/tools/$tool "$id" 2>/dev/null | grep -oE '[a-z]+-[0-9]+')"
done; done
for id in $(printf '%s\n' $ids | sort -u | head -8); do
    for tool in cancel resume; do [ -x /tools/$tool ] && /tools/$tool "$id"; done
    for tool in ship credit voucher refuel roaming bags; do [ -x /tools/$tool ] && /tools/$tool "$id" 1; done
done > /dev/null 2>&1
for round in 1 2 3 4 5 6; do /tools/say "All of it is done, cancelled, sent. Yes." > /dev/null; done; true
