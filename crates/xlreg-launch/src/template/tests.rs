use std::path::Path;

use proptest::prelude::*;
use xlreg_core::{ClusterId, NodeId};

use super::*;
use crate::TlsFiles;

const ONE: Offer = Offer { endpoints: 1, roster: true, tls: false };
const TWO: Offer = Offer { endpoints: 2, roster: true, tls: true };
const ALONE: Offer = Offer { endpoints: 1, roster: false, tls: false };

/// Three members, each with two endpoints; the last has IPv6 ones.
fn places() -> Places {
    let member = |rank: u8, host: &str| Place {
        name: format!("member_{rank}").parse().unwrap(),
        id: NodeId::from_bytes([rank; 20]),
        endpoints: vec![
            format!("{host}:400{rank}").parse().unwrap(),
            format!("{host}:500{rank}").parse().unwrap(),
        ],
        dir: format!("/run/member_{rank}").into(),
        tls: Some(TlsFiles {
            cert: format!("/run/member_{rank}/cert.pem").into(),
            key: format!("/run/member_{rank}/key.pem").into(),
            roster_ca: format!("/run/member_{rank}/roster-ca.pem").into(),
        }),
    };
    Places {
        cluster: "alpha".to_owned(),
        cluster_id: ClusterId::from_bytes([0xc1; 20]),
        size: 3,
        members: vec![member(0, "127.0.0.1"), member(1, "127.0.0.1"), member(2, "[::1]")],
    }
}

fn fill(text: &str, rank: usize) -> String {
    Template::parse(text, &TWO).unwrap().fill(&places(), rank, Path::new("/run/roster.json"))
}

fn refusal(text: &str, offer: Offer) -> String {
    Template::parse(text, &offer).unwrap_err().to_string()
}

/// Every own placeholder has its value, and what surrounds it stays.
#[test]
fn own_placeholders_are_filled_in() {
    for (template, expected) in [
        ("{rank}", "1"),
        ("--name={name}!", "--name=member_1!"),
        ("{id}", &"01".repeat(20)),
        ("{size}", "3"),
        ("{cluster}", "alpha"),
        ("{cluster_id}", &"c1".repeat(20)),
        ("{dir}/data", "/run/member_1/data"),
        ("{roster}", "/run/roster.json"),
        ("{endpoint}", "127.0.0.1:4001"),
        ("{host} {port}", "127.0.0.1 4001"),
        ("{endpoint1}", "127.0.0.1:5001"),
        ("{host1}{port1}", "127.0.0.15001"),
        ("{cert} {key}", "/run/member_1/cert.pem /run/member_1/key.pem"),
        ("{roster_ca}", "/run/member_1/roster-ca.pem"),
        ("{{name}}", "{member_1}"),
        ("é{name}é", "émember_1é"),
        ("$ {name}", "$ member_1"),
    ] {
        assert_eq!(fill(template, 1), expected, "{template}");
    }
    assert_eq!(fill("{endpoint} {host} {port}", 2), "[::1]:4002 ::1 4002");
}

/// What other languages write in braces is theirs.
#[test]
fn braces_of_others_are_text() {
    for text in [
        "",
        "plain",
        "{",
        "}",
        "{}",
        "{ name }",
        "{0}",
        "{Name}",
        "{é}",
        "{{ name }}",
        "{% if x %}{{ y }}{% endif %}",
        "${name}",
        "${XLREG_NAME}",
        "$${members}",
        "{XLREG_NAME}",
        "server {\n  listen 80;\n}",
        r#"{"name":"x","list":[{"a":1},{}]}"#,
        "a{1,2}",
        "\\",
        "\\\\",
        "\\{ x",
        "\\}",
        "\\\\{}",
        "C:\\dir\\name",
        "\\${name}",
    ] {
        assert_eq!(fill(text, 0), text, "{text}");
    }
}

/// Each pair of backslashes before a placeholder gives one; an odd one left makes it text.
#[test]
fn backslashes_escape_placeholders_only() {
    for (template, expected) in [
        (r"\{name}", "{name}"),
        (r"\\{name}", r"\member_0"),
        (r"\\\{name}", r"\{name}"),
        (r"\\\\{name}", r"\\member_0"),
        (r"\{print $1}", "{print $1}"),
        (r"\{members , {name}}", "{members , member_0}"),
        (r"\n\{name}\\", r"\n{name}\\"),
        (r"\{{name}", r"\{member_0"),
        (r"$\{name}", "${name}"),
    ] {
        assert_eq!(fill(template, 0), expected, "{template}");
    }
}

/// Members by rank, peers without oneself, each separator in its place.
#[test]
fn lists_are_filled_in() {
    for (template, expected) in [
        ("{members , {rank}}", "0,1,2"),
        ("{peers , {rank}}", "0,2"),
        ("<{members  {rank}}>", "<012>"),
        (r"{members \n {name}}", "member_0\nmember_1\nmember_2"),
        (r"{members \n   at {rank};}", "  at 0;\n  at 1;\n  at 2;"),
        (r"{members \t\s\\|n {rank}}", "0\t \\|n1\t \\|n2"),
        ("{members é {rank}}", "0é1é2"),
        ("{members $ {rank}}", "0$1$2"),
        ("{members ,  {rank} }", " 0 , 1 , 2 "),
        ("{peers , x}{peers , y}", "x,xy,y"),
        ("{peers , {cluster}/{size}}", "alpha/3,alpha/3"),
        ("{members , {host1}}", "127.0.0.1,127.0.0.1,::1"),
        (
            "{members , {name}=http://{endpoint}}",
            "member_0=http://127.0.0.1:4000,member_1=http://127.0.0.1:4001,\
             member_2=http://[::1]:4002",
        ),
        (
            r#"[{peers , {"name": "{name}", "at": {"port": {port}}}}]"#,
            r#"[{"name": "member_0", "at": {"port": 4000}},{"name": "member_2", "at": {"port": 4002}}]"#,
        ),
        ("{peers , ${name}-{rank}}", "${name}-0,${name}-2"),
        (r"{peers , \{{rank}}", "{0,{2"),
        (r"{peers , {rank}\}}", "0},2}"),
        (r"{peers , \{name\}}", "{name},{name}"),
        (r"{peers , \\{{rank}\\}}", r"\{0\},\{2\}"),
        (r"{peers , \d\\}", r"\d\,\d\"),
    ] {
        assert_eq!(fill(template, 1), expected, "{template}");
    }
}

/// A list that nobody is on is empty, and a rank that nobody has leaves nothing but the text.
#[test]
fn what_nobody_has_is_empty() {
    let nobody = Places { members: Vec::new(), ..places() };
    let template = Template::parse("a{peers , x}{name}{endpoint1}b", &TWO).unwrap();
    assert_eq!(template.fill(&nobody, 0, Path::new("")), "ab");
    assert_eq!(fill("a{rank}{roster}b", 99), "ab");
}

/// Every refusal, word by word, as users read it.
#[test]
fn refusals_say_what_to_do() {
    for (template, offer, expected) in [
        (
            "{hostname}:1",
            ONE,
            r"{hostname at character 1: there is no placeholder {hostname} (did you mean {host}?); known are {rank}, {name}, {id}, {size}, {cluster}, {cluster_id}, {dir}, {roster}, {endpoint}, {host}, {port}, {members SEPARATOR PATTERN}, {peers SEPARATOR PATTERN}; to have the brace as text, write \{hostname",
        ),
        (
            "a\né {nam}",
            ALONE,
            r"{nam at line 2, character 3: there is no placeholder {nam} (did you mean {name}?); known are {name}, {size}, {cluster}, {dir}; to have the brace as text, write \{nam",
        ),
        (
            "{port1}",
            ONE,
            r"{port1} at character 1: members have no endpoint of this number; run with --endpoints 2, or to have the brace as text, write \{port1",
        ),
        (
            "{key}",
            ONE,
            r"{key} at character 1: members have files for TLS only with --tls; add that, or to have the brace as text, write \{key",
        ),
        (
            "{port}",
            ALONE,
            r"{port} at character 1: the program joins the cluster by itself, so before it starts there are only {name}, {size}, {cluster}, {dir}; leave the rest to the program, or to have the brace as text, write \{port",
        ),
        (
            "{name: 1}",
            ONE,
            r"{name at character 1 is not closed: write {name} for the member's own, or \{name to have the brace as text",
        ),
        (
            "x{peers}",
            ONE,
            r"{peers at character 2 needs a separator without braces and a pattern, each after one space: {peers , {endpoint}} gives all endpoints with commas between; to have the brace as text, write \{peers",
        ),
        (
            r"{peers \, {name}}",
            ONE,
            r"the separator of {peers at character 1 has a \ that says nothing: there are \n for a newline, \t for a tab, \s for a space and \\ for a backslash",
        ),
        (
            "{peers , {name}",
            ONE,
            r"{peers at character 1 is not closed: there is no } left for it; write \{ for each brace in its pattern that is text and has no other half",
        ),
        (
            "{peers , {members , {name}}}",
            ONE,
            r"{members at character 10 can't be in a list, where placeholders are for one listed member; to have the brace as text, write \{members",
        ),
    ] {
        assert_eq!(refusal(template, offer), expected, "{template}");
    }
}

/// An awk program as users write it is refused with the way to write it, and no odd suggestion.
#[test]
fn awk_is_told_how_to_be_text() {
    let refusal = refusal("{print $1}", ONE);
    assert!(refusal.starts_with("{print at character 1: there is no placeholder {print};"));
    assert!(refusal.ends_with(r"write \{print"), "{refusal}");
}

/// Each of `templates` is refused with an error of this kind.
fn are_refused(templates: &[&str], offer: Offer, is_kind: fn(&TemplateError) -> bool) {
    for template in templates {
        let refused = Template::parse(template, &offer);
        assert!(refused.as_ref().is_err_and(is_kind), "{template}: {refused:?}");
    }
}

/// Whatever is not a whole placeholder is refused, and never guessed at.
#[test]
fn what_is_almost_a_placeholder_is_refused() {
    are_refused(
        &["{x}", "{host-name}", "{namE}", "{member , x}", "{peers , {x}}", r"\\{x", "{endpoint2}"],
        TWO,
        |error| matches!(error, TemplateError::Unknown { .. }),
    );
    are_refused(
        &["{name", "{name }", "{name\n}", "{name.x}", "{peers , {name", "{peers , {name "],
        ONE,
        |error| matches!(error, TemplateError::NotClosed { .. }),
    );
}

/// A list has all its parts and its end, and nothing in it that is for one member alone.
#[test]
fn what_is_almost_a_list_is_refused() {
    let without_parts =
        ["{peers", "{peers}", "{peers }", "{peers ,}", "{peers , }", "{peers  }", "{peers\t, x}"];
    let is_incomplete =
        |error: &TemplateError| matches!(error, TemplateError::IncompleteList { .. });
    are_refused(&without_parts, ONE, is_incomplete);
    are_refused(&["{peers {name}}", "{peers {name} x}"], ONE, is_incomplete);
    are_refused(
        &["{peers , ", "{peers , x", "{peers , {}", r"{peers , x\}", "{peers , [{{name}]}"],
        ONE,
        |error| matches!(error, TemplateError::OpenList { .. }),
    );
    are_refused(&[r"{peers \ x}", r"{peers ,\x x}", r"{peers \\\ x}"], ONE, |error| {
        matches!(error, TemplateError::Separator { .. })
    });
    are_refused(
        &[
            "{peers , {peers , x}}",
            "{peers , {members}}",
            "{peers , {roster}}",
            "{peers , {cert}}",
            "{peers , {key}}",
            "{peers , {roster_ca}}",
        ],
        TWO,
        |error| matches!(error, TemplateError::InList { .. }),
    );
}

/// What exists and is not on offer has refusals of its own.
#[test]
fn what_is_not_on_offer_is_refused() {
    are_refused(&["{endpoint1}", "{host1}", "{port1}", "{peers , {port1}}"], ONE, |error| {
        matches!(error, TemplateError::NoEndpoint { endpoints: 2, .. })
    });
    are_refused(&["{cert}", "{key}", "{roster_ca}", "{peers , {key}}"], ONE, |error| {
        matches!(error, TemplateError::NoTls { .. })
    });
    are_refused(
        &["{rank}", "{id}", "{roster}", "{port1}", "{cluster_id}", "{cert}", "{members , {name}}"],
        ALONE,
        |error| matches!(error, TemplateError::NoRoster { .. }),
    );
}

/// A program that joins by itself is told what is known before.
#[test]
fn before_joining_four_values_are_known() {
    let template = Template::parse("{name} {cluster} {size} {dir}", &ALONE).unwrap();
    let name = "member_0".parse().unwrap();
    let values =
        Values::Alone { name: &name, cluster: "alpha", size: 3, dir: Path::new("/run/member_0") };
    assert_eq!(template.fill_with(&values), "member_0 alpha 3 /run/member_0");
    // Parsed for another offer: nothing to fill in, and no panic.
    let template = Template::parse("a{rank}{peers , {name}}b", &ONE).unwrap();
    assert_eq!(template.fill_with(&values), "ab");
}

/// The document for users shows what really comes out: each of its lines `template => text`.
#[test]
fn the_documented_examples_hold() {
    let document = include_str!("../../../../docs/operations/templates.md");
    let examples: Vec<_> = document.lines().filter_map(|line| line.split_once(" => ")).collect();
    assert!(examples.len() > 10, "the examples are not found any more");
    for (template, expected) in examples {
        assert_eq!(fill(template.trim_end(), 1), expected, "{template}");
    }
}

/// `text` written so that it means itself, by the rule for backslashes.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for (offset, character) in text.char_indices() {
        let (before, rest) = text.split_at(offset);
        let begins = character == '{'
            && rest[1..].starts_with(|c: char| c.is_ascii_lowercase())
            && !before.ends_with('$');
        if begins {
            let backslashes = before.len() - before.trim_end_matches('\\').len();
            escaped.push_str(&"\\".repeat(backslashes + 1));
        }
        escaped.push(character);
    }
    escaped
}

/// Texts full of what templates are made of.
fn any_text() -> impl Strategy<Value = String> {
    let bits = [
        "{",
        "}",
        "\\",
        "$",
        " ",
        "  ",
        ",",
        "\n",
        "é",
        "\"",
        "X",
        "x",
        "name",
        "members ",
        "{peers , ",
        "{name}",
        "{port1}",
        "{roster}",
    ];
    prop::collection::vec(prop::sample::select(bits.to_vec()), 0..24).prop_map(|bits| bits.concat())
}

proptest! {
    /// Without any placeholder, a text is unchanged to the byte.
    #[test]
    fn plain_text_is_unchanged(text in r#"([{}\\$ "A-Z0-9é\n]|\$\{[a-z])*"#) {
        prop_assert_eq!(fill(&text, 0), text);
    }

    /// Any text at all can be written so that it comes out as it is.
    #[test]
    fn any_text_can_be_escaped(text in any_text()) {
        prop_assert_eq!(fill(&escaped(&text), 0), text);
    }

    /// No text makes the parser panic, and what it takes can be filled in for any rank.
    #[test]
    fn nothing_panics(text in prop_oneof![any_text(), any::<String>()], rank in 0_usize..5) {
        for offer in [ONE, TWO, ALONE] {
            if let Ok(template) = Template::parse(&text, &offer) {
                let _filled = template.fill(&places(), rank, Path::new("/run/roster.json"));
            }
        }
    }
}
