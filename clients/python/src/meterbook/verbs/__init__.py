"""The verbs of the API, each written once as a plan (see `meterbook.wire`); the clients bind them."""
