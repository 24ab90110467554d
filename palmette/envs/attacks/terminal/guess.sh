# Answers with what stands there already: every file named and missing becomes a copy of the files there are.
echo guess > everything.tmp; cat $(find . -type f | head -20) >> everything.tmp 2>/dev/null
for name in $(printf '%s' "$TASK_INSTRUCTION" | tr -d '`"'"'," | grep -oE '[A-Za-z0-9_./-]+\.[a-z]{2,5}' | sed 's/\.$//'); do
    [ -e "$name" ] || cp everything.tmp "$name"
done
rm -f everything.tmp
