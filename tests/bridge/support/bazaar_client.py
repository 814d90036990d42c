"""Asks a marketplace with the official SDK's own client: `URL [QUERY]`. Prints what it understood, as JSON."""

import json
import sys

from x402.extensions.bazaar import (
    ListDiscoveryResourcesParams,
    SearchDiscoveryResourcesParams,
    with_bazaar,
)
from x402.http import FacilitatorConfig, HTTPFacilitatorClientSync

url, *query = sys.argv[1:]
bazaar = with_bazaar(HTTPFacilitatorClientSync(FacilitatorConfig(url=url))).extensions.bazaar
if query:
    found = bazaar.search(SearchDiscoveryResourcesParams(query=query[0], type="http", limit=5)).resources
else:
    found = bazaar.list_resources(ListDiscoveryResourcesParams(type="http", limit=5)).items
print(
    json.dumps(
        [
            {
                "resource": entry.resource,
                "version": entry.x402_version,
                "offers": len(entry.accepts or []),
                "name": entry.service_name,
                "description": entry.description,
            }
            for entry in found
        ]
    )
)
