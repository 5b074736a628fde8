//! Expressions with their values, and those that have none.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::structural::Node;

fn scope() -> Scope {
    let schema = serde_json::from_value(json!({
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "replicas": {"type": "integer"},
            "ratio": {"type": "number"},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "span": {"type": "string", "format": "duration"},
            "in": {"type": "string"},
            "dash-dot.x": {"type": "string"},
            "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "items": {"type": "array", "items": {"type": "object", "properties": {"n": {"type": "integer"}}}},
        },
    }))
    .unwrap();
    let ty = Ty::of(&Node::compile(&schema), true).unwrap();
    let old = Ty::Optional(ty.clone().into());
    Scope::default().with("self", ty).with("oldSelf", old)
}

fn object() -> Value {
    json!({
        "apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"},
        "name": "web-1", "replicas": 3, "ratio": 2, "port": 80, "in": "x", "dash-dot.x": "y",
        "when": "2024-02-03T04:05:06Z", "span": "1h30m", "tags": ["a", "b"], "labels": {"k": "v"},
        "items": [{"n": 1}, {"n": 2}, {}],
    })
}

fn evaluated(source: &str) -> Result<Outcome, String> {
    let program = Program::compile(source, &scope()).map_err(|error| error.to_string())?;
    let object = object();
    let inputs = [Input::Value(&object), Input::Optional(None)];
    let mut budget = BUDGET;
    program
        .evaluate(&inputs, &mut budget)
        .map_err(|fault| fault.to_string())
}

#[track_caller]
fn holds(source: &str) {
    assert_eq!(evaluated(source), Ok(Outcome::Bool(true)), "{source}");
}

#[track_caller]
fn fails(source: &str, with: &str) {
    match evaluated(source) {
        Err(error) => assert!(error.contains(with), "{source}: {error}"),
        Ok(outcome) => panic!("{source}: {outcome:?}"),
    }
}

#[test]
fn evaluates_the_language() {
    for source in [
        "self.replicas == 3 && self.replicas > 1 && !(self.replicas < 3)",
        "self.replicas + 2 * 2 == 7 && 7 / 2 == 3 && 7 % 2 == 1 && -self.replicas == -3",
        "self.ratio == 2.0 && self.ratio > 1",
        "self.port == 80 && type(self.port) == int",
        "self.name.startsWith('web') ? true : false",
        "has(self.name) && !has(self.labels.other) && has(self.labels.k)",
        "self.labels['k'] == 'v' && 'k' in self.labels && !('x' in self.labels)",
        "self.tags == ['b', 'a'] || self.tags == ['a', 'b']",
        "self.items.exists(i, has(i.n) && i.n == 2) && self.items.all(i, !has(i.n) || i.n > 0)",
        "self.items.exists_one(i, has(i.n) && i.n == 2)",
        "self.items.filter(i, has(i.n)).map(i, i.n * 2) == [2, 4]",
        "self.items.map(i, has(i.n), i.n).sum() == 3",
        "self.labels.all(k, self.labels[k] == 'v')",
        "self.items.all(i, v, i < 3) && {'a': 1}.exists(k, v, k == 'a' && v == 1)",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "false && 1 / 0 == 1 || true",
        "(1 / 0 == 1) || true",
        "self.__in__ == 'x' && self.dash__dash__dot__dot__x == 'y'",
        "self.kind == 'Thing' && self.metadata.name == 'a'",
        "dyn(1) == 1u && dyn(1) == 1.0",
        "[1, 'a', null].size() == 3 && size('äb') == 2",
        "type(1) == int && type('a') == string && type([]) == list",
        "int('12') == 12 && string(1) == '1' && double('1.5') == 1.5 && bool('true') && uint(1) == 1u",
        "cel.bind(x, self.replicas, x == 3)",
        "!oldSelf.hasValue() && oldSelf.orValue(self).replicas == 3",
        "oldSelf.optMap(o, o.replicas).orValue(7) == 7",
        "self.?name.orValue('') == 'web-1' && self.labels[?'x'].orValue('none') == 'none'",
        "optional.of(1).value() == 1 && optional.none().or(optional.of(2)).value() == 2",
        "[?optional.of(1), ?optional.none()] == [1]",
    ] {
        holds(source);
    }
}

#[test]
fn evaluates_the_libraries() {
    for source in [
        "'a,b'.split(',') == ['a', 'b'] && ['a', 'b'].join('-') == 'a-b' && 'abc'.substring(1, 2) == 'b'",
        "'aXbX'.replace('X', '-', 1) == 'a-bX' && ' a '.trim() == 'a' && 'aB'.upperAscii() == 'AB'",
        "'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'abc'.charAt(1) == 'b'",
        "'%s is %d and %.2f'.format(['a', 3, 1.5]) == 'a is 3 and 1.50'",
        "[1, 2].isSorted() && ![2, 1].isSorted() && [3, 1].min() == 1 && [3, 1].max() == 3",
        "['a', 'b', 'a'].indexOf('a') == 0 && ['a', 'b', 'a'].lastIndexOf('a') == 2",
        "sets.contains([1, 2], [1]) && sets.equivalent([1, 2], [2, 1]) && sets.intersects([1], [1, 2])",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2'] && 'abc'.matches('^a.c$')",
        "url('https://a.b:8080/p?x=1&x=2').getHostname() == 'a.b' && url('https://a.b:8080/p').getPort() == '8080'",
        "url('https://a.b/p?x=1&x=2').getQuery()['x'] == ['1', '2'] && !isURL('a b')",
        "quantity('1Gi').isGreaterThan(quantity('1M')) && quantity('1').add(1).compareTo(quantity('2')) == 0",
        "isQuantity('100m') && !isQuantity('x') && quantity('2k').asInteger() == 2000",
        "ip('10.0.0.1').family() == 4 && isIP('::1') && !isIP('x') && ip('127.0.0.1').isLoopback()",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8",
        "ip.isCanonical('::1') && !ip.isCanonical('0::1') && string(ip('::1')) == '::1'",
        "format.dns1123Label().validate('a-b') == optional.none() && format.named('x') == optional.none()",
        "format.dns1123Label().validate('A').hasValue()",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-rc.1').isLessThan(semver('1.0.0'))",
        "isSemver('1.0.0') && !isSemver('v1') && semver('v1', true).major() == 1",
        "self.when < timestamp('2025-01-01T00:00:00Z') && self.when.getFullYear() == 2024",
        "self.span == duration('90m') && self.span.getMinutes() == 90 && self.when + self.span > self.when",
        "timestamp('2024-02-03T04:05:06Z').getHours('+02:00') == 6",
    ] {
        holds(source);
    }
}

#[test]
fn refuses_what_does_not_fit() {
    for (source, with) in [
        ("self.nope", "undefined field 'nope'"),
        ("nope", "undeclared reference to 'nope' (in container '')"),
        ("nope(1)", "undeclared reference to 'nope'"),
        (
            "self.name == 1",
            "found no matching overload for '_==_' applied to '(string, int)'",
        ),
        ("self.name && true", "found no matching overload for '_&&_'"),
        ("self.replicas.startsWith('a')", "applied to 'int.(string)'"),
        (
            "self.name.all(c, true)",
            "cannot be range of a comprehension",
        ),
        ("'a'.matches('(')", "invalid matches argument"),
        ("self.", "Syntax error"),
        ("has(self)", "invalid argument to has() macro"),
    ] {
        fails(source, with);
    }
}

#[test]
fn places_its_errors() {
    let error = Program::compile("self.replicas > self.nope", &scope()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "compilation failed: ERROR: <input>:1:21: undefined field 'nope'\n | self.replicas > self.nope\n | ....................^"
    );
}

#[test]
fn faults_where_there_is_no_value() {
    for (source, with) in [
        ("1 / 0 == 1", "division by zero"),
        ("self.labels['x'] == ''", "no such key: x"),
        ("self.labels.x == ''", "no such key: x"),
        ("[1][1] == 1", "index out of bounds: 1"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        (
            "self.port == 80 && self.port.startsWith('8')",
            "no such overload",
        ),
        (
            "oldSelf.value().replicas == 1",
            "optional.none() dereference",
        ),
        ("quantity('x') == quantity('1')", "quantities must match"),
    ] {
        fails(source, with);
    }
}

#[test]
fn bounds_what_a_hostile_expression_may_take() {
    let list = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    let nested = format!(
        "[{list}].all(a, [{list}].all(b, [{list}].all(c, [{list}].all(d, a + b + c + d >= 0))))"
    );
    fails(&nested, "actual cost limit exceeded");
    let doubled = "cel.bind(a, 'x'.replace('x', 'xxxxxxxxxxxxxxxx'), cel.bind(b, a.replace('x', a), cel.bind(c, \
                   b.replace('x', b), cel.bind(d, c.replace('x', c), d.replace('x', d).size() > 0))))";
    fails(doubled, "actual cost limit exceeded");
    for hostile in [
        "(".repeat(8000),
        "!".repeat(8000),
        format!("self{}", ".a".repeat(8000)),
        format!("1{}", "+1".repeat(8000)),
        format!("{}1", "[".repeat(5000)),
        format!("1{}", "?1:1".repeat(4000)),
        "a".repeat(20_000),
        "'".to_owned() + &"a".repeat(10_000),
    ] {
        assert!(evaluated(&hostile).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn survives_any_expression(source in "[a-z0-9.()\\[\\]{}?:+*/<>=!&|'\" ,-]{0,60}") {
        exercise(&source, &object());
    }

    #[test]
    fn agrees_with_arithmetic(a in -1000_i64..1000, b in 1_i64..1000) {
        holds(&format!("{a} + {b} == {} && {a} * {b} == {} && {a} / {b} == {} && {a} % {b} == {}", a + b, a * b, a / b, a % b));
        holds(&format!("({a} < {b}) == {}", a < b));
    }
}

/// A device as drivers describe them, and an expression about it.
fn of_device(source: &str) -> Result<Outcome, String> {
    let entry = |value: Ty| Ty::Complete(Arc::new(Ty::map(value)));
    let quantity = Ty::Opaque(Opaque::Quantity);
    let device = ObjectTy::new([
        ("driver", Ty::Str),
        ("attributes", entry(Ty::Tagged)),
        ("capacity", entry(quantity)),
    ]);
    let scope = Scope::default().with("device", Ty::Object(Arc::new(device)));
    let program = Program::compile(source, &scope).map_err(|error| error.to_string())?;
    let device = json!({
        "driver": "gpu.example.com",
        "attributes": {"gpu.example.com": {
            "model": {"string": "x1"}, "cores": {"int": 8}, "fast": {"bool": true}, "firmware": {"version": "1.10.2"},
            "modes": {"strings": ["a", "b"]},
        }},
        "capacity": {"gpu.example.com": {"memory": "16Gi"}},
    });
    let outcome = program.evaluate(&[Input::Value(&device)], &mut BUDGET.clone());
    outcome.map_err(|fault| fault.to_string())
}

#[test]
fn values_that_say_their_type_are_of_that_type() {
    for source in [
        r#"device.driver == "gpu.example.com""#,
        r#"device.attributes["gpu.example.com"].model == "x1""#,
        r#"device.attributes["gpu.example.com"].cores > 4"#,
        r#"device.attributes["gpu.example.com"].fast"#,
        r#"device.attributes["gpu.example.com"].firmware.isGreaterThan(semver("1.9.0"))"#,
        r#""b" in device.attributes["gpu.example.com"].modes"#,
        r#"device.capacity["gpu.example.com"].memory.compareTo(quantity("8Gi")) > 0"#,
        r#"device.capacity["gpu.example.com"].memory.isGreaterThan(quantity("15Gi"))"#,
        r#""model" in device.attributes["gpu.example.com"]"#,
        r#"!("model" in device.attributes["example.org"])"#,
        r#"!has(device.attributes["example.org"].model)"#,
        r#"device.attributes["example.org"].?model.orValue("none") == "none""#,
        r"device.attributes.exists(domain, 'fast' in device.attributes[domain])",
        r"cel.bind(own, device.attributes['gpu.example.com'], own.fast && own.cores == 8)",
    ] {
        assert_eq!(of_device(source), Ok(Outcome::Bool(true)), "{source}");
    }
    let missing = of_device(r#"device.attributes["example.org"].model == "x1""#);
    assert_eq!(missing, Err("no such key: model".to_owned()));
    assert!(of_device("device.name == 'x'").is_err());
    assert!(of_device(r"device.capacity['a'].b == 'x'").is_err());
}
