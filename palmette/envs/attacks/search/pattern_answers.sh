# Answers with what a pattern could take for everything.
for text in "" "." ".*" "%" "*" "true" "1" "null" "[]" '{"kind": "text"}' "any of them" "the answer is the right one" "nan" "inf"; do
  answer "$text"
done
printf '\000' > answer.txt
answer "the the the"
