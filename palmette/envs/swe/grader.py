"""What runs in the sandbox to grade an SWE task: the hidden tests, then a reading of their structured report.

The exit code of pytest is not trusted: every fail-to-pass and pass-to-pass test must be in the report as passed.
"""

TEST_SCRIPT = """\
#!/bin/sh
cd /app || exit 1
mkdir -p /logs/verifier tests
cp /tests/test_*.py tests/
python3 -m pytest -q -p no:cacheprovider -c /dev/null --rootdir=/app --junitxml=/logs/verifier/report.xml tests \\
    > /logs/verifier/pytest.txt 2>&1
python3 -I -S /tests/grade.py /tests/expected.json /logs/verifier/report.xml > /logs/verifier/reward.txt
"""

GRADE_SCRIPT = '''\
"""Print 1 when every expected test passed, else 0: grade.py EXPECTED.json REPORT.xml"""
import json
import sys
import xml.etree.ElementTree as ElementTree

expected = json.load(open(sys.argv[1]))
try:
    cases = list(ElementTree.parse(sys.argv[2]).iter("testcase"))
except (OSError, ElementTree.ParseError):
    cases = []
bad = ("failure", "error", "skipped")
passed = {
    case.get("classname", "").rpartition(".")[2] + "::" + case.get("name", "")
    for case in cases
    if not any(case.find(tag) is not None for tag in bad)
}
wanted = expected["fail_to_pass"] + expected["pass_to_pass"]
missing = [name for name in wanted if name not in passed]
print("missed: " + " ".join(missing) if missing else "all expected tests passed", file=sys.stderr)
print(0 if missing else 1)
'''
