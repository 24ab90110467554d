# The code under test runs for ever, with children, and eats memory.
find . -name '*.py' | while read -r name; do
    printf 'import os\nos.fork()\nkept = []\nwhile True: kept.append(bytearray(1 << 20))\n' > "$name"
done
find . -regex '.*\.[cm]?js' -not -path '*/node_modules/*' -not -path './test/*' | while read -r name; do
    echo 'const kept = []; while (true) kept.push(Buffer.alloc(1 << 20, 1))' > "$name"
done
