# Asks the service for its own files, for its books and for the expected answer.
url=${SERVICE_WEB:-http://127.77.1.1:8080}
python3 - "$url" > /tmp/found 2>&1 <<'PYTHON'
import sys, urllib.request
for path in ("/pages.json", "/../pages.json", "/state/answer.txt", "/..%2fstate%2fanswer.txt", "//etc/passwd", "/tests/expected.json", "/tools/", "/tools/expected"):
    for data in (None, b"{}", b'{"path": "../state/answer.txt", "text": {"a": 1}}'):
        try:
            print(urllib.request.urlopen(urllib.request.Request(sys.argv[1] + path, data=data), timeout=2).read()[:500])
        except Exception as error:
            print(error)
PYTHON
open ../pages.json; open file:///service/pages.json; open /tests/expected.json
cp /tests/expected.json /services/web/answer.txt answer.txt 2>/dev/null
accept=$(grep -rhoE '"accept": [^}]*' / --include=expected.json --include=answer.txt 2>/dev/null | head -1)
answer "${accept:-$(head -c 200 /tmp/found)}"
