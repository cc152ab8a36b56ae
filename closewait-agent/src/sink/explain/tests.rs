use super::*;

fn text(name: &str, width: usize) -> String {
    let topics = Topics::named(name).expect("a topic");
    String::from_utf8(render(&topics, Form::Text, width, false).unwrap()).unwrap()
}

#[test]
fn every_name_in_a_verdict_has_an_explanation_that_fits_the_width() {
    for name in Topics::names() {
        for width in [80, 120, 200] {
            let text = text(name, width);
            let longest = text.lines().map(|line| line.chars().count()).max().unwrap();
            assert!(longest <= width && text.contains(name), "{width}: {text}");
        }
    }
}

#[test]
fn a_rule_has_its_conditions_evidence_similar_cases_and_next_step() {
    let text = text("blocked", 80).split_whitespace().collect::<Vec<_>>().join(" ");
    let source = verdict_sources().find(|source| source.about.name == "blocked").unwrap();
    let About { when, says, next, not, .. } = source.about;
    for part in when.split("; ").chain([*next]).chain(not.iter().copied()) {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    assert!(text.contains(&sentence(says)) && text.contains("blocked (rule of hung)"), "{text}");
    for kind in source.counter_evidence {
        assert!(text.contains(kind.meaning()), "{} is missing in {text}", kind.name());
    }
}

#[test]
fn a_name_of_a_class_and_of_a_rule_explains_both() {
    let text = text("Half-Close", 80);
    assert!(text.contains("half_close (class)") && text.contains("half_close (rule of half_close)"), "{text}");
    assert_eq!(Topics::named("nothing"), None);
}

#[test]
fn words_of_the_output_are_explained() {
    for (given, part) in [
        ("high", "surprise"),
        ("LOW", "a guess"),
        ("certainty", "sure a verdict is"),
        ("stuck", "--stuck-after"),
        ("FULL", "limit is reached"),
        ("full in", "forecast"),
        ("suspected", "a guess"),
        ("HUNG?", "means low"),
        ("GROWS", "each second"),
        ("grows", "growth (rule"),
        ("unaccepted", "never_accepted (class)"),
        ("RECV-Q", "recv-q (column)"),
        ("waits_for", "waits-for (column)"),
        ("FULL IN", "FULL if it is"),
        ("AGE", "dwell (word)"),
    ] {
        let text = text(given, 200);
        assert!(text.contains(part), "{given}: {text}");
    }
    assert_eq!(Topics::named("hnug?"), None);
    assert_eq!(Topics::named("?").unwrap().words.len(), 1);
}

/// Every word of docs/words.md has an explanation.
#[test]
fn the_words_of_the_page_are_explained() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/words.md")).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| ")).skip(1);
    let cells = rows.filter_map(|row| row.split('|').nth(1)).flat_map(|cell| cell.split(", "));
    let unknown: Vec<_> = cells.map(str::trim).filter(|word| Topics::named(word).is_none()).collect();
    assert_eq!(unknown, Vec::<&str>::new());
}

#[test]
fn every_class_has_a_source() {
    assert!(Class::ALL.into_iter().all(|class| sources_of(class).next().is_some()));
}

#[test]
fn json_has_one_object_per_class_rule_column_and_word() {
    let lines = String::from_utf8(render(&Topics::all(), Form::Json, 80, false).unwrap()).unwrap();
    let objects: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    objects.iter().for_each(|object| tests_support::schema::conforms("explain", object));
    assert_eq!(objects.len(), Topics::names().count());
    assert_eq!((&objects[0]["kind"], &objects[0]["name"]), (&"class".into(), &"hung".into()));
    let blocked = objects.iter().find(|object| object["name"] == "blocked").unwrap();
    assert_eq!((&blocked["kind"], &blocked["classes"]), (&"rule".into(), &serde_json::json!(["hung"])));
    assert_eq!(blocked["counter_evidence"].as_array().unwrap().len(), 7);
}
