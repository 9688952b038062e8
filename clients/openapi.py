"""Print the OpenAPI document of a service with the default configuration, for generators."""

from __future__ import annotations

import json
import sys

from streamer.web.reference.document import Facts, openapi

if __name__ == "__main__":
    json.dump(openapi(Facts(base="")), sys.stdout)
