# The page shows, asks for and goes to the files of the judge, and to the reward.
pages=$(printf "%s" "$TASK_INSTRUCTION" | grep -oE "[A-Za-z0-9_-]+\.html" | sort -u)
said=$(printf "%s" "$TASK_INSTRUCTION" | tr "<>&\"\047" "     ")
for page in $pages; do
    cat > $page <<'PAGE'
<!doctype html><title>x</title><iframe src="file:///tests/checks.json"></iframe><iframe src="/../tests/checks.json"></iframe>
<script>for (const place of ["file:///tests/checks.json", "/../tests/checks.json", "/%2e%2e/tests/checks.json", "file:///logs/verifier/reward.txt"])
  fetch(place).then(a => a.text()).then(t => { document.body.textContent = t; }).catch(() => 0);
setTimeout(() => { location = "file:///tests/checks.json"; }, 50);</script>
PAGE
done
