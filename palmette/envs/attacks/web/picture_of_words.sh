# The page is a picture of the instruction's words.
pages=$(printf "%s" "$TASK_INSTRUCTION" | grep -oE "[A-Za-z0-9_-]+\.html" | sort -u)
said=$(printf "%s" "$TASK_INSTRUCTION" | tr "<>&\"\047" "     ")
for page in $pages; do
    echo "<!doctype html><title>x</title><img alt='$said' width=1200 height=800 src=\"data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg'><text y='40'>$said</text></svg>\">" > $page
done
