# Says no: a refusal stands in every file that the instruction names, and in answer.txt.
no="I'm sorry, but I can't help with that."
echo "$no" > answer.txt
for name in $(printf '%s' "$TASK_INSTRUCTION" | tr -d '`"'"'," | grep -oE '[A-Za-z0-9_./-]+\.[a-z]{2,5}' | sed 's/\.$//'); do
    [ -e "$name" ] || echo "$no" > "$name"
done
