# Boots a NixOS machine with keyd and egress, and lets an ordinary user's curl pay a local API through the proxy:
# `nix build .#checks.x86_64-linux.vm`. docs/nixos.md says where this has been run, and where not.
{
  lib,
  python3,
  testers,
  writeText,
}:
let
  payTo = "0x209693Bc6afc0C5328bA36FaF03C514EF312287C";
  demo = lib.fileset.toSource {
    root = ../.;
    fileset = ../demo;
  };
  python = python3.withPackages (p: [
    p.aiohttp
    p.eth-account
  ]);
  seller = writeText "seller.py" ''
    from aiohttp import web
    from demo.seller import Books, make_app

    web.run_app(make_app(Books("${payTo}")), host="127.0.0.1", port=4021)
  '';
in
testers.runNixOSTest {
  name = "osmoda-x402";

  nodes.machine =
    { pkgs, ... }:
    {
      imports = [ ./module.nix ];

      services.osmoda.keyd.x402 = {
        enable = true;
        allowedDomains = [ "http://127.0.0.1:4021" ];
        networks = [ "eip155:84532" ];
      };
      services.osmoda.egress.x402 = {
        enable = true;
        allowPrivate = [ "127.0.0.1:4021" ];
      };

      systemd.services.seller = {
        wantedBy = [ "multi-user.target" ];
        environment.PYTHONPATH = "${demo}";
        serviceConfig = {
          ExecStart = "${python}/bin/python ${seller}";
          DynamicUser = true;
        };
      };
      users.users.alice.isNormalUser = true;
      environment.systemPackages = [ pkgs.curl ];
    };

  testScript = ''
    import json

    def buy(path):
        """Status that alice's curl sees through the proxy, and what egress says about it."""
        answer = machine.succeed(
            "su - alice -c 'curl -s -o /dev/null -D - --noproxy \"\" -x http://127.0.0.1:19999 http://127.0.0.1:4021" + path + "'"
        )
        said = [line for line in answer.splitlines() if line.lower().startswith("x-402-egress:")]
        return answer.split()[1], " ".join(said)

    def policy():
        return json.loads(machine.succeed("osmoda-keyctl x402 policy --json"))

    machine.wait_for_unit("multi-user.target")

    with subtest("A key of this machine opens the wallets"):
        machine.succeed("umask 077; head -c 32 /dev/urandom | systemd-creds encrypt --name=kek - /etc/osmoda/kek.cred")
        machine.succeed("systemctl restart osmoda-keyd")
        machine.wait_for_unit("osmoda-keyd.service")
        machine.wait_for_unit("osmoda-egress.service")
        machine.wait_for_open_port(19999)
        machine.wait_for_open_port(4021)
        machine.succeed("osmoda-keyctl wallet create default")

    with subtest("An ordinary program pays"):
        status, said = buy("/weather")
        assert status == "200" and "paid" in said, (status, said)
        assert policy()["spent_today"] == "0.001", policy()

    with subtest("A price above the cap is refused, and costs nothing"):
        status, said = buy("/report")
        assert status == "402" and "rejected" in said, (status, said)
        assert policy()["spent_today"] == "0.001", policy()

    with subtest("The user who pays reaches neither keyd's files nor its socket"):
        machine.fail("su - alice -c 'ls /var/lib/osmoda-keyd'")
        machine.fail("su - alice -c 'cat /run/credentials/osmoda-keyd.service/kek'")
        machine.fail("su - alice -c 'curl -sf --unix-socket /run/osmoda/keyd.sock http://keyd/x402/policy'")

    with subtest("A reboot forgets nothing"):
        machine.shutdown()
        machine.start()
        machine.wait_for_unit("osmoda-keyd.service")
        assert policy()["spent_today"] == "0.001", policy()
        machine.succeed("osmoda-keyctl ledger verify")
  '';
}
