# Stands in for the parts of nixpkgs' `lib` that the module uses: options, types, and the merging of modules.
# Written for these tests, not taken from nixpkgs. Stricter where it differs: what it lacks is an error.
let
  b = builtins;
  inherit (b) all attrNames concatLists concatMap elem filter foldl' head isAttrs isBool isFloat isFunction isInt isList
    isPath isString length listToAttrs mapAttrs match tail toJSON;

  nameValuePair = name: value: { inherit name value; };
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  filterAttrs = keep: set: listToAttrs (filter (p: keep p.name p.value) (mapAttrsToList nameValuePair set));
  recursiveUpdate = old: new:
    old // mapAttrs (name: value:
      if old ? ${name} && isAttrs old.${name} && isAttrs value then recursiveUpdate old.${name} value else value) new;
  imap = f: list: b.genList (i: f i (b.elemAt list i)) (length list);

  # ---- definitions: mkIf, mkMerge, mkForce, mkDefault

  isA = type: value: isAttrs value && (value._type or null) == type;
  mkOverride = priority: content: { _type = "override"; inherit priority content; };
  mkIf = condition: content: { _type = "if"; inherit condition content; };
  mkMerge = contents: { _type = "merge"; inherit contents; };

  discharge = value:
    if isA "merge" value then concatMap discharge value.contents
    else if isA "if" value then (if value.condition then discharge value.content else [ ])
    else [ value ];

  # mkIf moves below the names, so that a condition may ask for config without an endless loop.
  pushDown = value:
    if isA "merge" value then concatMap pushDown value.contents
    else if isA "if" value then map (mapAttrs (_: mkIf value.condition)) (pushDown value.content)
    else [ value ];

  mergeValues = path: type: definitions:
    let
      found = concatMap discharge definitions;
      priority = value: if isA "override" value then value.priority else 100;
      best = foldl' (low: p: if p < low then p else low) 10000 (map priority found);
      values = map (value: if isA "override" value then value.content else value) (filter (v: priority v == best) found);
      bad = filter (value: !(type.check value)) values;
    in
    if found == [ ] then throw "The option `${path}' was accessed but has no value defined."
    else if bad != [ ] then throw "A definition for option `${path}' is not of type `${type.name}': ${show (head bad)}"
    else type.merge path values;
  show = value: if isAttrs value || isFunction value || isPath value then "a ${b.typeOf value}" else toJSON value;

  # ---- types

  type = name: check: {
    inherit name check;
    options = { };
    merge = path: values:
      if all (v: v == head values) values then head values else throw "The option `${path}' has conflicting definitions.";
  };
  number = value: isInt value || isFloat value;
  types = {
    bool = type "boolean" isBool;
    int = type "integer" isInt;
    str = type "string" isString;
    path = type "absolute path" (v: isPath v || (isString v && hasPrefix "/" v));
    package = type "package" (v: isAttrs v && v ? outPath);
    anything = type "anything" (_: true) // {
      merge = path: values: if all isAttrs values then foldl' recursiveUpdate { } values else (type "" null).merge path values;
    };
    enum = values: type "one of ${toJSON values}" (v: elem v values);
    strMatching = pattern: type "string matching ${pattern}" (v: isString v && match pattern v != null);
    ints = {
      unsigned = type "unsigned integer" (v: isInt v && v >= 0);
      positive = type "positive integer" (v: isInt v && v > 0);
      between = low: high: type "integer between ${toString low} and ${toString high}" (v: isInt v && v >= low && v <= high);
    };
    numbers.between = low: high: type "number between ${toString low} and ${toString high}" (v: number v && v >= low && v <= high);
    nullOr = t: t // {
      name = "null or ${t.name}";
      check = v: v == null || t.check v;
      merge = path: values: if all (v: v == null) values then null else t.merge path values;
    };
    either = t: u: type "${t.name} or ${u.name}" (v: t.check v || u.check v);
    listOf = t: type "list of ${t.name}" isList // {
      inherit (t) options;
      merge = path: values: concatLists (map (imap (i: v: mergeValues "${path}.[${toString i}]" t [ v ])) values);
    };
    nonEmptyListOf = t: types.listOf t // { name = "non-empty list of ${t.name}"; check = v: isList v && v != [ ]; };
    attrsOf = t: type "attribute set of ${t.name}" isAttrs // {
      merge = path: values:
        mapAttrs (name: _: mergeValues "${path}.${name}" t (concatMap (v: if v ? ${name} then [ v.${name} ] else [ ]) values))
          (foldl' (a: v: a // v) { } values);
    };
    submodule = module: type "submodule" isAttrs // {
      inherit (module) options;
      merge = path: evaluate path module.options;
    };
  };

  # ---- modules

  evaluate = path: options: definitions:
    let
      definitions' = concatMap pushDown definitions;
      unknown = filter (name: !(options ? ${name})) (concatMap attrNames definitions');
      under = name: if path == "" then name else "${path}.${name}";
      one = name: option:
        let given = concatMap (d: if d ? ${name} then [ d.${name} ] else [ ]) definitions';
        in
        if isA "option" option then
          mergeValues (under name) option.type (given ++ (if option ? default then [ (mkOverride 1500 option.default) ] else [ ]))
        else
          evaluate (under name) option given;
    in
    if unknown != [ ] then throw "The option `${under (head unknown)}' does not exist." else mapAttrs one options;

  evalModules = { modules, args }:
    let
      load = module:
        let
          value = if isPath module then import module else module;
          body = if isFunction value then value (args // { inherit config lib; }) else value;
        in
        concatMap load (body.imports or [ ]) ++ [ body ];
      loaded = concatMap load modules;
      options = foldl' recursiveUpdate { } (map (m: m.options or { }) loaded);
      configOf = m: if m ? config || m ? options then m.config or { } else removeAttrs m [ "imports" ];
      config = evaluate "" options (map configOf loaded);
    in
    { inherit config options; };

  # Every option below `options`, as `{ name, type, default, description }`; those of submodules as `name.*.below`.
  optionList = path: options:
    concatLists (mapAttrsToList (name: option:
      let here = if path == "" then name else "${path}.${name}";
      in
      if !(isA "option" option) then optionList here option
      else [ {
        name = here;
        type = option.type.name;
        description = option.description or "";
        required = !(option ? default);
        default = option.default or null;
      } ] ++ optionList "${here}.*" option.type.options) options);

  hasPrefix = prefix: text: b.substring 0 (b.stringLength prefix) text == prefix;

  lib = {
    inherit concatMap evalModules filterAttrs hasPrefix isAttrs isList mapAttrs mapAttrs' mapAttrsToList mkIf mkMerge
      nameValuePair optionList recursiveUpdate types attrNames;
    mkOption = option: option // { _type = "option"; };
    mkEnableOption = what: lib.mkOption { type = types.bool; default = false; description = "Whether to enable ${what}."; };
    mkForce = mkOverride 50;
    literalExpression = text: { _type = "literalExpression"; inherit text; };
    optional = condition: value: if condition then [ value ] else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    concatStrings = b.concatStringsSep "";
    concatStringsSep = b.concatStringsSep;
    concatMapStrings = f: list: lib.concatStrings (map f list);
    last = list: b.elemAt list (length list - 1);
    stringToCharacters = text: b.genList (i: b.substring i 1 text) (b.stringLength text);
    toList = value: if isList value then value else [ value ];
  };
in
lib
