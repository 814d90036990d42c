"""The proxy: it sees traffic and asks for payments, and holds no key."""

import importlib.util
import sys
import types


def _leave_out_mitmproxys_own_addons() -> None:
    """Make `mitmproxy.addons` a package that imports nothing by itself.

    Its `__init__` imports every addon of mitmdump, and with them flask, ldap3 and others: 12 MB and 0.15 s for parts
    that egress never starts. The few addons that it uses are imported by their own names.
    """
    name = "mitmproxy.addons"
    spec = importlib.util.find_spec("mitmproxy")
    if name in sys.modules or spec is None or spec.submodule_search_locations is None:
        return
    package = types.ModuleType(name)
    package.__path__ = [f"{folder}/addons" for folder in spec.submodule_search_locations]
    sys.modules[name] = package


_leave_out_mitmproxys_own_addons()
