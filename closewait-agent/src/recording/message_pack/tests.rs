use std::{fs, io, path::Path};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::*;
use crate::recording::{Item, Reader, RecordingEnd};
use closewait_engine::Checkpoint;

fn decoded<T: DeserializeOwned>(mut bytes: &[u8]) -> Result<(T, usize), Error> {
    let all = bytes.len();
    let value = T::deserialize(&mut MessagePack::new(&mut bytes))?;
    Ok((value, all - bytes.len()))
}

/// One of each kind of value that a type can ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Kinds {
    numbers: (u8, u16, u32, u64, i8, i16, i32, i64),
    floats: (f32, f64),
    truth: [bool; 2],
    text: String,
    character: char,
    texts: Vec<String>,
    pairs: std::collections::BTreeMap<(u8, String), Option<i64>>,
    nothing: Option<Unit>,
    something: Option<Unit>,
    unit: (),
    newtype: Newtype,
    variants: Vec<Kind>,
    address: std::net::IpAddr,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Unit;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Newtype(Option<Box<Kinds>>);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Unit,
    Newtype(Option<u8>),
    Tuple(u8, String),
    Struct { a: u64, b: Box<Kind> },
}

fn kinds() -> Kinds {
    Kinds {
        numbers: (u8::MAX, u16::MAX, u32::MAX, u64::MAX, i8::MIN, i16::MIN, i32::MIN, i64::MIN),
        floats: (1.5, -0.1),
        truth: [true, false],
        text: "é".repeat(40_000),
        character: '水',
        texts: vec!["a".repeat(31), "b".repeat(32), "c".repeat(256), String::new()],
        pairs: (0..70_000).map(|at| ((at as u8, at.to_string()), (at % 2 == 0).then_some(-i64::from(at)))).collect(),
        nothing: None,
        something: Some(Unit),
        unit: (),
        newtype: Newtype(None),
        variants: vec![
            Kind::Unit,
            Kind::Newtype(None),
            Kind::Newtype(Some(7)),
            Kind::Tuple(1, "one".to_owned()),
            Kind::Struct { a: 3, b: Box::new(Kind::Unit) },
        ],
        address: "2001:db8::7".parse().unwrap(),
    }
}

#[test]
fn all_kinds_of_values_are_read_as_they_were_written() {
    let mut one = kinds();
    one.newtype = Newtype(Some(Box::new(kinds())));
    let mut bytes = rmp_serde::to_vec_named(&one).unwrap();
    let length = bytes.len();
    bytes.extend([0xc1; 3]);
    assert_eq!(decoded::<Kinds>(&bytes).unwrap(), (one, length), "and no byte behind it");
}

/// Without text and floats, whose damage no number contains.
fn short() -> Kinds {
    Kinds { text: "text".to_owned(), pairs: [((7, "seven".to_owned()), Some(-7))].into(), ..kinds() }
}

#[test]
fn a_value_that_is_cut_is_an_error() {
    let bytes = rmp_serde::to_vec_named(&short()).unwrap();
    for length in 0..bytes.len() {
        let error = decoded::<Kinds>(&bytes[..length]).unwrap_err();
        assert!(
            matches!(error, Error::InvalidMarkerRead(_) | Error::InvalidDataRead(_)),
            "after {length} bytes: {error:?}"
        );
    }
}

#[test]
fn damaged_bytes_are_read_as_by_the_library_or_refused() {
    let bytes = rmp_serde::to_vec_named(&short()).unwrap();
    for at in 0..bytes.len() {
        // A third of the bytes: another one at each place.
        for byte in ((at % 3) as u8..=u8::MAX).step_by(3) {
            let mut damaged = bytes.clone();
            damaged[at] = byte;
            let Ok((value, _)) = decoded::<Kinds>(&damaged) else { continue };
            let other = rmp_serde::from_slice::<Kinds>(&damaged).unwrap();
            let encoded = |value| rmp_serde::to_vec_named(value).unwrap();
            assert_eq!(encoded(&value), encoded(&other), "byte {at} is {byte}");
        }
    }
}

#[test]
fn members_that_no_type_has_are_skipped() {
    #[derive(Deserialize)]
    struct Few {
        character: char,
        address: std::net::IpAddr,
    }
    let bytes = rmp_serde::to_vec_named(&kinds()).unwrap();
    let (few, length) = decoded::<Few>(&bytes).unwrap();
    assert_eq!((few.character, few.address, length), ('水', kinds().address, bytes.len()));
}

#[test]
fn depth_is_limited_in_all_types_also_in_what_is_skipped() {
    #[derive(Debug, Deserialize)]
    enum Nested {
        #[serde(alias = "n")]
        In(Box<Nested>),
        Out,
    }
    #[derive(Debug, Deserialize)]
    struct None {}
    let depth = usize::from(MAX_DEPTH);
    let nested = |depth| [[0x81, 0xa1, b'n'].repeat(depth), vec![0xa3, b'O', b'u', b't']].concat();
    let mut value = decoded::<Nested>(&nested(depth - 1)).unwrap().0;
    let mut levels = 0;
    while let Nested::In(inner) = value {
        (value, levels) = (*inner, levels + 1);
    }
    assert_eq!(levels, depth - 1);
    assert!(matches!(decoded::<Nested>(&nested(depth)), Err(Error::DepthLimitExceeded)));
    let skipped = |depth| [vec![0x81, 0xa1, b'x'], [0x91].repeat(depth), vec![0xc0]].concat();
    decoded::<None>(&skipped(depth - 1)).unwrap();
    assert!(matches!(decoded::<None>(&skipped(depth)), Err(Error::DepthLimitExceeded)));
    assert!(matches!(decoded::<None>(&skipped(10_000_000)), Err(Error::DepthLimitExceeded)));
}

#[test]
fn a_length_takes_no_memory_and_no_time() {
    for bytes in [[0xdb, 0xff, 0xff, 0xff, 0xff], [0xdd, 0xff, 0xff, 0xff, 0xff], [0xdf, 0xff, 0xff, 0xff, 0xff]] {
        let mut from = &bytes[..];
        let mut reader = MessagePack::new(&mut from);
        assert!(reader.skip().is_err());
        assert!(reader.bytes.capacity() <= STEP, "{}", reader.bytes.capacity());
    }
}

#[test]
fn errors_name_what_was_found() {
    let text = |error: Error| error.to_string();
    assert_eq!(text(decoded::<u8>(&[0xa1, b'a']).unwrap_err()), "invalid type: text, expected u8");
    assert_eq!(text(decoded::<u8>(&[0xcd, 1, 0]).unwrap_err()), "invalid value: integer `256`, expected u8");
    assert!(matches!(decoded::<String>(&[0xa1, 0xff]), Err(Error::Utf8Error(_))));
    assert!(matches!(decoded::<[u8; 1]>(&[0x92, 1, 2]), Err(Error::LengthMismatch(1))));
    assert!(matches!(decoded::<u8>(&[0xd4, 1, 2]), Err(Error::TypeMismatch(Marker::FixExt1))));
}

/// Decodes all items of a recording, and encodes them again.
fn compare(path: &Path) -> usize {
    let mut reader = Reader::new(io::BufReader::new(fs::File::open(path).unwrap())).unwrap();
    let mut items = 0;
    for item in reader.by_ref() {
        let item = item.unwrap();
        if let Item::Checkpoint(checkpoint) = &item {
            let bytes = rmp_serde::to_vec_named(checkpoint).unwrap();
            let (own, length) = decoded::<Checkpoint>(&bytes).unwrap();
            assert_eq!(length, bytes.len());
            assert!(rmp_serde::to_vec_named(&own).unwrap() == bytes, "{}: a checkpoint", path.display());
        } else {
            let mut bytes = Vec::new();
            item.encode(&mut bytes).unwrap();
            let library: Item<'static> = rmp_serde::from_slice(&bytes).unwrap();
            let (own, length) = decoded::<Item<'static>>(&bytes).unwrap();
            assert_eq!(length, bytes.len());
            assert_eq!(format!("{own:?}"), format!("{library:?}"), "{}", path.display());
        }
        items += 1;
    }
    assert_ne!(reader.end(), Some(RecordingEnd::Unfinished), "{}", path.display());
    items
}

#[test]
fn recordings_are_read_as_by_the_library() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let recordings: Vec<_> = files.filter(|path| path.extension().is_some_and(|name| name == "recording")).collect();
    assert!(recordings.len() >= 10, "{}", recordings.len());
    let items: usize = recordings.iter().map(|path| compare(path)).sum();
    assert!(items > 1_000, "{items}");
}
