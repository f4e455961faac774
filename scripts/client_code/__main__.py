"""Write the client's operations and types from openapi.yaml: `make client`."""

from __future__ import annotations

import sys

from scripts.client_code.modules import TARGETS, from_openapi, up_to_date, write


def main() -> int:
    """Write them; with --check only say whether they are up to date."""
    made = from_openapi()
    if "--check" in sys.argv[1:]:
        if up_to_date(made):
            return 0
        print("the client's generated modules do not match openapi.yaml: run `make client`")
        return 1
    write(made)
    print(f"{len(made)} modules in {', '.join(map(str, TARGETS))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
