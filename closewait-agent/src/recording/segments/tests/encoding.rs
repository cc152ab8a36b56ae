//! Encoding of a segment, compared with checked-in ones: a change that other versions cannot read needs a new version.
//!
//! `tests/segments/NAME.segment` is the last part of the real run in `tests/recordings/NAME.recording`. `members.txt`
//! lists the members of all items and states in them, as this code encodes them. `BLESS=1` writes both, except what
//! hides a missing version. `tests/replay.rs` compares the replay of the segments.

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::{Folder, LONG, Play, RETENTION};
use crate::recording::{FlightRecorder, Item, Reader, SEGMENT_VERSION, segments::name};
use closewait_engine::Checkpoint;

/// Recordings of which the last part is a segment, and the part of their items before it, per cent. Together they have
/// 1,160 of the 1,241 members that some part of a recording has: also those of resolved incidents and of proxies.
const PARTS: [(&str, usize); 9] = [
    ("go-client", 90),
    ("haproxy", 30),
    ("healthy-haproxy-queue", 90),
    ("healthy-tomcat-slow", 90),
    ("in-flight", 70),
    ("redis-script", 70),
    ("restarted", 99),
    ("ring", 70),
    ("zombies", 90),
];
/// Command that writes the files.
const BLESS: &str = "BLESS=1 cargo test -p closewait-agent --lib encoding_of_segments";

/// Hint for a change that other versions cannot read.
const RAISE: &str = "hint: raise Checkpoint::VERSION (closewait-engine/src/checkpoint.rs) for a change of the state, or \
     SEGMENT_VERSION (closewait-agent/src/recording/mod.rs) for one of items; then write segments of that version: \
     `BLESS=1 cargo test -p closewait-agent --lib encoding_of_segments`";

/// Kinds of values of each member, by its path.
type Members = BTreeMap<String, BTreeSet<&'static str>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/segments")
}

#[test]
fn the_encoding_of_segments_is_that_of_their_version() {
    let blesses = env::var_os("BLESS").is_some();
    let mut members = Members::new();
    for (name, percent) in PARTS {
        let path = folder().join(format!("{name}.segment"));
        if blesses && !fs::read(&path).is_ok_and(|bytes| has_this_version(&bytes)) {
            fs::write(&path, segment_of(name, percent)).unwrap();
        }
        let bytes = fs::read(&path).unwrap();
        assert!(
            has_this_version(&bytes),
            "{name}.segment has another version than this code ({})\n\
             hint: write segments of this version: `{BLESS}`, then `BLESS=1 cargo test -p closewait-agent --test replay`",
            version()
        );
        for item in Reader::new(&bytes[..]).unwrap() {
            let item = item.unwrap_or_else(|error| {
                panic!(
                    "{name}.segment has the version of this code, which cannot read it: {:#}\n\
                     hint: give a new member `#[serde(default)]` if the state means the same without it\n{RAISE}",
                    anyhow::Error::from(error)
                )
            });
            add_members(&item, &mut members);
        }
    }
    compare_members(&members, blesses);
}

/// Compares the members with the checked-in ones of this version.
fn compare_members(members: &Members, blesses: bool) {
    let path = folder().join("members.txt");
    let lines = members.iter().flat_map(|(path, kinds)| kinds.iter().map(move |kind| format!("{path}: {kind}\n")));
    let now = version() + "\n" + &lines.collect::<String>();
    match compare(&fs::read_to_string(&path).unwrap_or_default(), &now) {
        Err(Difference::New(_)) if blesses => fs::write(path, now).unwrap(),
        Err(Difference::New(text) | Difference::Gone(text)) => panic!("{text}"),
        Ok(()) => {}
    }
}

fn version() -> String {
    format!("segment {SEGMENT_VERSION}, checkpoint {}", Checkpoint::VERSION)
}

/// Difference of two encodings.
#[derive(Debug, PartialEq, Eq)]
enum Difference {
    /// There are new members or a new version only.
    New(String),
    /// Members are gone, and the version is the same.
    Gone(String),
}

/// Compares two texts with a version and members.
fn compare(then: &str, now: &str) -> Result<(), Difference> {
    let lines = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<BTreeSet<_>>();
    let only = |one: &str, other: &str| Vec::from_iter(lines(one).difference(&lines(other)).cloned()).join("\n    ");
    let (gone, new) = (only(then, now), only(now, then));
    if then.lines().next() == now.lines().next() && !gone.is_empty() {
        return Err(Difference::Gone(format!(
            "these members of a segment are gone, or have another type, and the version is the same:\n    {gone}\n\
             new:\n    {new}\n{RAISE}"
        )));
    }
    if then == now {
        return Ok(());
    }
    Err(Difference::New(format!(
        "a segment has new members, or another version:\n    {new}\n\
         hint: if recordings without these members mean the same, `{BLESS}`; otherwise raise the version first"
    )))
}

#[test]
fn a_member_that_is_gone_needs_a_new_version_and_a_new_one_does_not() {
    let gone = compare("segment 1\na: null\nb: text\n", "segment 1\nb: text\nc: null\n");
    assert!(matches!(&gone, Err(Difference::Gone(text)) if text.contains("\n    a: null\n") && text.contains("raise")));
    let other_type = compare("segment 1\na: null\n", "segment 1\na: text\n");
    assert!(matches!(other_type, Err(Difference::Gone(_))));
    for now in ["segment 1\na: null\nb: text\n", "segment 2\nc: null\n"] {
        assert!(matches!(compare("segment 1\na: null\n", now), Err(Difference::New(_))), "{now}");
    }
    assert_eq!(compare("segment 1\na: null\n", "segment 1\na: null\n"), Ok(()));
}

/// Whether a segment has the version of this code.
fn has_this_version(bytes: &[u8]) -> bool {
    let line = format!("closewait recording {SEGMENT_VERSION}\n");
    let mut reader = Reader::new(bytes).ok().filter(|_| bytes.starts_with(line.as_bytes()));
    let first = reader.as_mut().and_then(|reader| reader.next()?.ok());
    matches!(first, Some(Item::Segment(start)) if start.checkpoint == Some(Checkpoint::VERSION))
}

/// Records the part of a recording behind these per cent of its items, as a segment.
fn segment_of(recording: &str, percent: usize) -> Vec<u8> {
    let path = folder().with_file_name("recordings").join(format!("{recording}.recording"));
    let items: Vec<_> = Reader::new(fs::File::open(path).unwrap()).unwrap().map(Result::unwrap).collect();
    let Some(Item::Began { config, at: began }) = items.first() else { unreachable!() };
    let folder = Folder::new(recording);
    let mut flight = FlightRecorder::create(&folder.0.join(""), RETENTION, config, *began).unwrap();
    let (mut play, mut now, mut has_begun) = (Play::default(), *began, false);
    for (place, item) in items.iter().enumerate() {
        if has_begun {
            flight.item(item).unwrap();
            continue;
        }
        play.item(item.clone());
        if let Item::Time(at) = item {
            now = now.max(*at);
        }
        let checkpoint = play.player.engine().and_then(closewait_engine::Engine::checkpoint);
        if let Some(checkpoint) =
            checkpoint.filter(|_| place >= items.len() * percent / 100 && matches!(item, Item::Drained))
        {
            flight.turn(now, play.player.anchor(), checkpoint);
            flight.item(&Item::Anchored(play.player.anchor())).unwrap();
            has_begun = true;
        }
    }
    flight.finish(LONG).unwrap();
    fs::read(folder.0.join(name(2))).unwrap()
}

/// Adds the members of an item, as it is encoded.
fn add_members(item: &Item<'_>, members: &mut Members) {
    let (path, bytes) = if let Item::Checkpoint(checkpoint) = item {
        ("checkpoint", rmp_serde::to_vec_named(checkpoint).unwrap())
    } else {
        let mut bytes = Vec::new();
        item.encode(&mut bytes).unwrap();
        ("item", bytes)
    };
    rmp_serde::from_slice::<Encoded>(&bytes).unwrap().add_members(path.to_owned(), members);
}

/// Encoded value of any type.
enum Encoded {
    Null,
    Bool,
    Number,
    Text(String),
    Bytes,
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
}

impl Encoded {
    fn add_members(&self, path: String, members: &mut Members) {
        let kind = match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Number => "number",
            Self::Text(_) => "text",
            Self::Bytes => "bytes",
            Self::List(values) => {
                values.iter().for_each(|value| value.add_members(format!("{path}[]"), members));
                "list"
            }
            Self::Map(values) => {
                for (key, value) in values {
                    let key = if let Self::Text(key) = key { key } else { "(key)" };
                    value.add_members(format!("{path}.{key}"), members);
                }
                "map"
            }
        };
        members.entry(path).or_default().insert(kind);
    }
}

impl<'de> Deserialize<'de> for Encoded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EncodedVisitor)
    }
}

struct EncodedVisitor;

impl<'de> Visitor<'de> for EncodedVisitor {
    type Value = Encoded;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Encoded, E> {
        Ok(Encoded::Null)
    }

    fn visit_bool<E>(self, _value: bool) -> Result<Encoded, E> {
        Ok(Encoded::Bool)
    }

    fn visit_i64<E>(self, _value: i64) -> Result<Encoded, E> {
        Ok(Encoded::Number)
    }

    fn visit_u64<E>(self, _value: u64) -> Result<Encoded, E> {
        Ok(Encoded::Number)
    }

    fn visit_f64<E>(self, _value: f64) -> Result<Encoded, E> {
        Ok(Encoded::Number)
    }

    fn visit_str<E>(self, value: &str) -> Result<Encoded, E> {
        Ok(Encoded::Text(value.to_owned()))
    }

    fn visit_bytes<E>(self, _value: &[u8]) -> Result<Encoded, E> {
        Ok(Encoded::Bytes)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> Result<Encoded, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Encoded::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut values: A) -> Result<Encoded, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = values.next_entry()? {
            map.push(entry);
        }
        Ok(Encoded::Map(map))
    }
}
