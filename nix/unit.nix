# Reads a shipped unit file (systemd.syntax(7)) into what `systemd.services`, `.sockets` and `.timers` take.
# The units are written once, in ../systemd: what hardens keyd there hardens it here.
{ lib }:
let
  inherit (builtins)
    filter
    foldl'
    head
    isString
    length
    mapAttrs
    match
    readFile
    replaceStrings
    split
    ;

  # Every line of the file is one of these, or nobody builds a system from it: half a unit is no hardening.
  header = match "\\[([A-Za-z]+)]";
  assignment = match "([A-Za-z0-9-]+)=(.*)";
  isWhole = value: match ".*(@[A-Z_]+@.*|\\\\)" value == null; # no other placeholder, and no line that goes on
  isNothing = line: match "[[:space:]]*|#.*" line != null;

  step =
    path: state: line:
    let
      section = header line;
      pair = assignment line;
      key = head pair;
      value = lib.last pair;
      sofar = state.sections.${state.section} or { };
    in
    if section != null then
      state // { section = head section; }
    else if pair != null && isWhole value then
      state
      // {
        sections = state.sections // {
          ${state.section} = sofar // {
            ${key} = (sofar.${key} or [ ]) ++ [ value ];
          };
        };
      }
    else
      throw "${toString path}: cannot read this line: ${line}";

  parse =
    package: path:
    let
      text = replaceStrings [ "@PREFIX@" ] [ "${package}" ] (readFile path);
      lines = filter (line: isString line && !(isNothing line)) (split "\n" text);
      start = {
        section = "";
        sections = { };
      };
    in
    (foldl' (step path) start lines).sections;

  words = values: lib.concatMap (value: filter (w: isString w && w != "") (split "[[:space:]]+" value)) values;
  plain = mapAttrs (_: values: if length values == 1 then head values else values);

  # NixOS joins these with what other modules add; as plain keys of [Unit] they would clash.
  lists = {
    After = "after";
    Before = "before";
    BindsTo = "bindsTo";
    Conflicts = "conflicts";
    Documentation = "documentation";
    PartOf = "partOf";
    Requires = "requires";
    Wants = "wants";
  };
in
# The unit at `path`, with its programs from `package`. [Install] becomes wantedBy and requiredBy; `Also=` is for
# `systemctl enable`, which NixOS does not use.
package: path:
let
  sections = parse package path;
  unit = sections.Unit or { };
  install = sections.Install or { };
in
lib.mapAttrs' (key: name: lib.nameValuePair name (words (unit.${key} or [ ]))) lists
// {
  description = lib.concatStrings (unit.Description or [ ]);
  unitConfig = plain (removeAttrs unit ([ "Description" ] ++ lib.attrNames lists));
  wantedBy = words (install.WantedBy or [ ]);
  requiredBy = words (install.RequiredBy or [ ]);
}
// lib.optionalAttrs (sections ? Service) { serviceConfig = plain sections.Service; }
// lib.optionalAttrs (sections ? Socket) { socketConfig = plain sections.Socket; }
// lib.optionalAttrs (sections ? Timer) { timerConfig = plain sections.Timer; }
