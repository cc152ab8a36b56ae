use tests_support::first_thread::FirstThreadEnded;

use super::*;

#[test]
fn a_process_whose_first_thread_has_ended_has_the_stacks_of_the_others() {
    let process = FirstThreadEnded::start();
    let read = read(process.pid(), &mut Patience::default()).unwrap();
    let stacks: Vec<_> =
        read.stacks.iter().map(|stack| (stack.tid == Some(process.pid()), stack.frames.len())).collect();
    assert!(matches!(stacks[..], [(false, 1..)]) && read.threads == 1, "{read:?}");
    let functions = read.stacks[0].frames.iter().filter_map(|frame| frame.function.as_deref());
    assert!(functions.into_iter().any(|name| name.contains("sleep")), "{read:?}");
}

#[test]
fn names_that_are_too_long_end_the_stacks_and_say_so() {
    let name = std::sync::Arc::<str>::from("\u{1b}".repeat(500));
    let frame = Frame { function: Some(name), line: Some(7), ..Frame::default() };
    let stacks = vec![Stack { frames: vec![frame; 100], ..Stack::default() }; 3];
    // 500 characters, each of which is shown as six.
    let mut left = 150 * 3000;
    let shown = code_stacks(CodeLanguage::Python, stacks, &mut left);
    let lens: Vec<_> = shown.iter().map(|stack| (stack.frames.len(), stack.cut.as_deref())).collect();
    let cut = Some("the names of this process are too long");
    assert_eq!((&lens[..], left), (&[(100, None), (50, cut), (0, cut)][..], 0));
}

#[test]
fn a_process_without_a_script_has_the_state_that_the_engine_knows() {
    assert_eq!(php::NO_SCRIPT, closewait_engine::stacks::NO_SCRIPT);
}

#[test]
fn threads_that_are_left_out_are_counted() {
    assert_eq!(unread_threads(0, 2048), None);
    assert_eq!(unread_threads(952, 2048).unwrap(), "952 threads beyond the first 2048");
}
