//! Frames of a dump: `java.lang.Thread.run(java.base@17.0.21/Thread.java:840)`.

use std::sync::Arc;

use super::super::{
    limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES, cut_name},
    stack::Frame,
};

/// Maximum length of a frame that is parsed, bytes. Only the beginning of a longer one is shown.
const MAX_TEXT: usize = 16 << 10;

/// Parses a frame as HotSpot prints it (`java_lang_Throwable::print_stack_element_to_buffer`, classfile/javaClasses.cpp of JDK 8 to 25),
/// or as `StackTraceElement.toString` does; `None` if it is malformed.
pub(super) fn parse(text: &str) -> Option<Frame> {
    // Names can have any characters but these in them, so the parentheses of the place are the last ones.
    if text.len() > MAX_TEXT {
        return Some(Frame { function: Some(Arc::from(cut_name(text, MAX_FUNCTION_BYTES))), ..Frame::default() });
    }
    let (function, place) = text.trim().strip_suffix(')')?.rsplit_once('(')?;
    let function = function_name(function);
    if function.is_empty() {
        return None;
    }
    let function = Arc::from(cut_name(&function, MAX_FUNCTION_BYTES));
    // The module, with its version, stands before the file.
    let place = place.rsplit('/').next().unwrap_or(place);
    let (file, line) = match place {
        "Native Method" | "Unknown Source" | "Redefined" => (None, None),
        place => match place.rsplit_once(':') {
            Some((file, line)) => (Some(file), line.parse().ok()),
            None => (Some(place), None),
        },
    };
    let file = file.filter(|file| !file.is_empty()).map(|file| Arc::from(cut_name(file, MAX_FILE_BYTES)));
    Some(Frame { function: Some(function), file, line, object: None, address: None, is_guess: false })
}

/// Returns the name of a function without the loader and module of its class (`app//`, `java.base@21/`), and without the numbers of
/// classes that the machine has made: `Orders$$Lambda.run` of `Orders$$Lambda$14/0x00007f75cd003100.run`.
fn function_name(text: &str) -> String {
    let mut name = text;
    while let Some((before, after)) = name.split_once('/')
        && !is_number_of_class(after)
        && !before.contains("$$")
    {
        name = after;
    }
    // The end of a longer name is not shown.
    let name = super::cut(name, 2 * MAX_FUNCTION_BYTES);
    let Some((class, function)) = name.rsplit_once('.') else { return name.to_owned() };
    let class = class.split('/').next().unwrap_or(class);
    let class = match class.split_once("$$Lambda$") {
        Some((outer, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => format!("{outer}$$Lambda"),
        Some(_) | None => class.to_owned(),
    };
    format!("{class}.{function}")
}

/// Whether the text behind a slash is the number of a hidden class and a function: `0x00007f75cd003100.run`, `1329552164.run`.
fn is_number_of_class(text: &str) -> bool {
    let (is_marked, digits) = text.strip_prefix("0x").map_or((false, text), |digits| (true, digits));
    // It ends at the first byte that is no digit, so that names with many slashes are passed once.
    let len = digits.bytes().take_while(|byte| byte.is_ascii_digit() || is_marked && byte.is_ascii_hexdigit()).count();
    len > 0 && digits.as_bytes().get(len) == Some(&b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_all_versions_are_parsed() {
        for (text, expected) in [
            ("java.lang.Thread.run(Thread.java:750)", "java.lang.Thread.run (Thread.java:750)"),
            ("java.lang.Thread.run(java.base@17.0.21.0.3/Thread.java:840)", "java.lang.Thread.run (Thread.java:840)"),
            ("java.base/java.lang.Thread.run(Thread.java:1583)", "java.lang.Thread.run (Thread.java:1583)"),
            ("app//shop.Orders.reserve(Orders.java:7)", "shop.Orders.reserve (Orders.java:7)"),
            ("loader/shop@1.2/shop.Orders.<init>(Orders.java:7)", "shop.Orders.<init> (Orders.java:7)"),
            ("Orders.reserve(Orders.java)", "Orders.reserve (Orders.java)"),
            ("sun.misc.Unsafe.park(Native Method)", "sun.misc.Unsafe.park"),
            ("jdk.internal.misc.Unsafe.park(java.base@17.0.21/Native Method)", "jdk.internal.misc.Unsafe.park"),
            ("Orders$$Lambda$23/1329552164.run(Unknown Source)", "Orders$$Lambda.run"),
            ("Orders$$Lambda$14/0x00007f75cd003100.run(Unknown Source)", "Orders$$Lambda.run"),
            ("Orders$$Lambda/0x00007f1b88000c08.run(Unknown Source)", "Orders$$Lambda.run"),
            (
                "java.lang.VirtualThread$$Lambda/0x00007f1b8804a168.run(java.base@21.0.13/Unknown Source)",
                "java.lang.VirtualThread$$Lambda.run",
            ),
            ("shop.Kasse.zahle(Kasse.kt:9)", "shop.Kasse.zahle (Kasse.kt:9)"),
            ("a.b(c) d.e(F.java:1)", "a.b(c) d.e (F.java:1)"),
            ("Lonely(F.java:x)", "Lonely (F.java)"),
        ] {
            assert_eq!(parse(text).map(|frame| frame.to_string()).as_deref(), Some(expected), "{text}");
        }
        for text in ["", "nothing", "(F.java:1)", "a.b(F.java:1", "a.b F.java:1)", ")("] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_long_name_is_cut_between_characters() {
        let frame = parse(&format!("{}.f({}:1)", "ж".repeat(3000), "ж".repeat(3000))).unwrap();
        let (function, file) = (frame.function.unwrap(), frame.file.unwrap());
        assert!(function.len() <= MAX_FUNCTION_BYTES && function.ends_with("ж…"), "{function}");
        assert!(file.len() <= MAX_FILE_BYTES && file.ends_with("ж…"), "{file}");
    }
}
