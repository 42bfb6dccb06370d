"""Runs in an official client's own environment: makes the calls that it reads as JSON lines, answers what came of them.

Knows nothing of Meterbook: the client, unchanged, is all that it imports.

A request is `{host, token, method, arguments}` for the typed method, or, where that cannot say it (a repeated
parameter, another verb), `{host, token, verb, path, path_parameters, query, models}` for the client's own serializer.
An answer is `{status, data, exception, error, body, headers, seconds}`: `data` is the parsed model as a dictionary and
`error` the parsed model of an error, if the client has one for the status.
"""

import json
import sys
import time
from functools import cache
from typing import Any

from launchdarkly_api import ApiClient, Configuration, __version__
from launchdarkly_api.api.account_usage_beta_api import AccountUsageBetaApi
from launchdarkly_api.exceptions import ApiException


@cache
def api_for(host: str, token: str | None) -> AccountUsageBetaApi:
    configuration = Configuration(host=host)
    if token is not None:
        configuration.api_key["ApiKey"] = token
    return AccountUsageBetaApi(ApiClient(configuration))


def call_typed(api: AccountUsageBetaApi, request: dict[str, Any]) -> Any:
    return getattr(api, request["method"])(**request["arguments"])


def call_serialized(api: AccountUsageBetaApi, request: dict[str, Any]) -> Any:
    client = api.api_client
    call = client.param_serialize(
        method=request["verb"],
        resource_path=request["path"],
        path_params=request["path_parameters"],
        query_params=[(name, value) for name, value in request["query"]],
        header_params={"Accept": "application/json"},
        auth_settings=["ApiKey"],
        collection_formats={},
    )
    response = client.call_api(*call)
    response.read()
    return client.response_deserialize(response_data=response, response_types_map=request["models"]).data


def answer(request: dict[str, Any]) -> dict[str, Any]:
    api = api_for(request["host"], request["token"])
    call = call_typed if "method" in request else call_serialized
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        data = call(api, request)
        result = {"status": 200, "data": data.to_dict()}
    except ApiException as error:
        result = {
            "status": error.status,
            "exception": type(error).__name__,
            "error": None if error.data is None else error.data.to_dict(),
            "body": error.body,
            "headers": {name.lower(): value for name, value in error.headers.items()},
        }
    except Exception as error:  # whatever the client makes of an answer is what the test wants to know
        result = {"status": None, "exception": type(error).__name__, "body": str(error)}
    return {**result, "seconds": time.perf_counter() - start}


def main() -> None:
    print(json.dumps({"version": __version__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
