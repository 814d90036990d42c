# egress.toml as options. docs/egress.md says the same at more length.
{ lib, ... }:
let
  inherit (lib) types;
  t = import ../types.nix { inherit lib; };
  inherit (t) option optional required;

  caller = types.submodule {
    options = {
      name = required t.callerName
        "User name in Proxy-Authorization, and in keyd's callers and budgets after `proxy:`.";
      tokenSha256 = required t.sha256 "SHA-256 of the token in hex; the token itself is in no file of ours.";
    };
  };
in
{
  options.services.osmoda.egress.x402 = {
    enable = lib.mkEnableOption "osmoda-egress, the proxy that pays 402 answers with payments that keyd allows";

    keydSocket = option types.str "/run/osmoda/keyd.sock" "keyd's Unix socket.";
    maxRetries = option (types.ints.between 0 1) 1
      "Paid repeats of one request. 0: nothing is paid; more than 1 could pay twice.";
    flatDialect = option types.bool false
      "Also read osModa's flat form of terms (`{amount, asset, chain, payTo, expiry}`) in PAYMENT-REQUIRED.";

    listen = option types.str "127.0.0.1:19999"
      "Address and port of the proxy. Keep it on loopback: every program that reaches it can use it.";
    intercept = option (types.enum [ "payable" "all" ]) "payable"
      "`payable`: look into TLS only towards hosts that keyd's policy could pay. `all`: towards every host.";
    maxRequestBody = option (types.ints.between 0 1073741824) 4194304
      "Bytes of a request body that are kept to repeat the request. Larger bodies pass through unpaid.";
    maxKept = option (types.ints.between 0 68719476736) 268435456
      "Bytes that all request bodies and 402 answers being kept may take together, for each worker process.";
    maxConnectionsPerCaller = option (types.ints.between 1 1048576) 1024
      "Connections that one local user, or one other host, may have open at a time, to each worker process.";
    allowPrivate = option (types.listOf types.str) [ ]
      "Hosts (`host` or `host:port`) that may be reached although their address is private or loopback.";
    allowedDomains = option (types.listOf types.str) [ ]
      "Where any traffic may go, paid or not, written as keyd's allowed domains. Empty: everywhere.";
    upstreamProxy = optional (types.strMatching "http://[^@/]+:[0-9]{1,5}")
      "Another proxy on the way out, `http://host:port`; its credential has an option of its own.";
    upstreamProxyCredentialFile = optional t.secretPath
      "File with one line `user:password` for it, outside the store, as root may read it.";
    upstreamCaFile = optional types.path
      "PEM file of certificate authorities trusted for upstream TLS, besides those of the system.";
    drainSeconds = option (types.numbers.between 0 3600) 30.0
      "How long requests that are under way may go on after SIGTERM.";
    workers = option (types.ints.between 1 64) 1
      "Processes that serve the same address. They share keyd, and so its budget.";
    metricsListen = optional (types.strMatching "(127\\.0\\.0\\.1|\\[::1]):[0-9]{1,5}")
      "Loopback address and port where `GET /metrics` answers Prometheus; none: nowhere.";
    identify = option (types.enum [ "uid" "process" ]) "uid"
      "`uid`: the kernel says which user asks. `process`: the ledger also gets pid and systemd unit.";
    callers = option (types.listOf caller) [ ] "Names and tokens for callers that the kernel cannot name.";

    fence = option (types.listOf t.fencedUser) [ ]
      "Users, as name or `uid:1000`, who reach the network through this proxy alone (osmoda-fence.service).";

    settings = option (types.attrsOf types.anything) { } ''
      Merged into egress.toml as it is, for keys that have no option here. A key that has one is refused.
    '';
  };
}
