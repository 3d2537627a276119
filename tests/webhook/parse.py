"""Reads forms of actions with the libraries of those who take them.

    parse.py cloudevents|ocsf < FORMS

One form per line on standard input; what the library understood is printed, one line of JSON each.
Whatever it does not take is an error.
"""

import json
import sys

form = sys.argv[1]
for line in sys.stdin:
    if form == "cloudevents":
        from cloudevents.v1.http import from_json

        event = from_json(line)
        print(json.dumps({"attributes": dict(event.get_attributes()), "data": event.get_data()}))
    else:
        from py_ocsf_models.events.findings.detection_finding import DetectionFinding

        finding = DetectionFinding.model_validate_json(line)
        print(finding.model_dump_json(exclude_none=True))
