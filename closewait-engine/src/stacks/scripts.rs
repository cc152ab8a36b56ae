//! Tables of PHP and Ruby: functions that wait, threads that wait for work, and folders of libraries.
//!
//! Functions of the interpreter and of its extensions have a name only: `curl_exec`, `PDOStatement::execute`, `pop`. Functions of scripts
//! have their file before it, without the blocks in them: `thread_pool.rb:spawn_thread`.

use super::{
    frame::{CodeFrame, CodeLanguage, CodeStack},
    idle::EVENTS,
    origin::FrameOrigin,
    waits::{CodeWait, wait_of},
};

/// State of a process of PHP that runs no script.
pub const NO_SCRIPT: &str = "no script";

/// Functions of PHP that wait. `%` stands for any characters.
pub(super) const PHP_WAITS: &[(&str, CodeWait)] = &[
    ("curl_exec", CodeWait::Receive),
    ("curl_multi_%", CodeWait::Receive),
    ("mysqli_connect", CodeWait::Connect),
    ("mysqli_real_connect", CodeWait::Connect),
    ("mysqli::__construct", CodeWait::Connect),
    ("mysqli::real_connect", CodeWait::Connect),
    ("mysqli%", CodeWait::Receive),
    ("PDO::__construct", CodeWait::Connect),
    ("PDO::%", CodeWait::Receive),
    ("PDOStatement::%", CodeWait::Receive),
    ("pg_connect", CodeWait::Connect),
    ("pg_pconnect", CodeWait::Connect),
    ("pg_%", CodeWait::Receive),
    ("Redis::%onnect", CodeWait::Connect),
    ("Redis::%", CodeWait::Receive),
    ("Memcached::%", CodeWait::Receive),
    ("SoapClient::%", CodeWait::Receive),
    ("MongoDB\\Driver\\%", CodeWait::Receive),
    ("fread", CodeWait::Read),
    ("fgets", CodeWait::Read),
    ("fgetc", CodeWait::Read),
    ("file_get_contents", CodeWait::Read),
    ("stream_get_%", CodeWait::Read),
    ("stream_copy_to_stream", CodeWait::Read),
    ("stream_socket_recvfrom", CodeWait::Receive),
    ("socket_read", CodeWait::Receive),
    ("socket_recv%", CodeWait::Receive),
    ("fwrite", CodeWait::Send),
    ("socket_write", CodeWait::Send),
    ("socket_send%", CodeWait::Send),
    ("fsockopen", CodeWait::Connect),
    ("stream_socket_client", CodeWait::Connect),
    ("stream_socket_enable_crypto", CodeWait::Receive),
    ("socket_connect", CodeWait::Connect),
    ("stream_select", CodeWait::Events),
    ("socket_select", CodeWait::Events),
    ("stream_socket_accept", CodeWait::Accept),
    ("socket_accept", CodeWait::Accept),
    // A session is a file that one request locks.
    ("session_start", CodeWait::Lock),
    ("flock", CodeWait::Lock),
    ("sem_acquire", CodeWait::Lock),
    ("msg_receive", CodeWait::Signal),
    ("sleep", CodeWait::Sleep),
    ("usleep", CodeWait::Sleep),
    ("time_nanosleep", CodeWait::Sleep),
    ("time_sleep_until", CodeWait::Sleep),
    ("gethostbyname%", CodeWait::Resolve),
    ("dns_%", CodeWait::Resolve),
    ("pcntl_wait%", CodeWait::Process),
    ("proc_close", CodeWait::Process),
    ("exec", CodeWait::Process),
    ("shell_exec", CodeWait::Process),
    ("system", CodeWait::Process),
    ("passthru", CodeWait::Process),
];

/// Functions of Ruby that wait; those of the interpreter without their classes. `synchronize` calls a block, so that it waits itself only
/// if it is the innermost one: see [`waits_to_enter`].
pub(super) const RUBY_WAITS: &[(&str, CodeWait)] = &[
    ("queue.rb:wait_poll", CodeWait::Pool),
    ("timed_stack.rb:pop", CodeWait::Pool),
    ("protocol.rb:rbuf_fill", CodeWait::Receive),
    ("buffered_io.rb:fill_buffer", CodeWait::Receive),
    ("http.rb:connect", CodeWait::Connect),
    ("socket.rb:tcp", CodeWait::Connect),
    ("socket.rb:connect%", CodeWait::Connect),
    ("open3.rb:capture%", CodeWait::Process),
    ("lock", CodeWait::Lock),
    ("enter", CodeWait::Lock),
    ("mon_enter", CodeWait::Lock),
    ("flock", CodeWait::Lock),
    ("pop", CodeWait::Signal),
    ("shift", CodeWait::Signal),
    ("deq", CodeWait::Signal),
    ("push", CodeWait::Room),
    ("wait", CodeWait::Signal),
    ("wait_for_cond", CodeWait::Signal),
    ("sleep", CodeWait::Sleep),
    ("join", CodeWait::Join),
    ("value", CodeWait::Join),
    ("select", CodeWait::Events),
    ("accept", CodeWait::Accept),
    ("sysaccept", CodeWait::Accept),
    ("connect", CodeWait::Connect),
    ("getaddrinfo", CodeWait::Resolve),
    ("wait_readable", CodeWait::Receive),
    ("wait_writable", CodeWait::Send),
    ("read", CodeWait::Read),
    ("readpartial", CodeWait::Read),
    ("sysread", CodeWait::Read),
    ("readline", CodeWait::Read),
    ("gets", CodeWait::Read),
    ("recv", CodeWait::Receive),
    ("recvfrom", CodeWait::Receive),
    ("write", CodeWait::Send),
    ("syswrite", CodeWait::Send),
    ("waitpid", CodeWait::Process),
    ("wait2", CodeWait::Process),
    ("system", CodeWait::Process),
    ("`", CodeWait::Process),
    // `pg` and `mysql2`.
    ("async_exec%", CodeWait::Receive),
    ("exec_params", CodeWait::Receive),
    ("exec_prepared", CodeWait::Receive),
    ("_query", CodeWait::Receive),
];

/// Functions of Ruby that wait for work. A function after ` < ` is the caller.
pub(super) const RUBY_IDLE: &[(&str, &str)] = &[
    ("wait < thread_pool.rb:spawn_thread", "work"),
    ("sleep < thread_pool.rb:start!", "work"),
    ("sleep < thread_pool.rb:auto_%", "work"),
    ("select < reactor.rb:select_loop", EVENTS),
    ("select < server.rb:handle_servers", "clients"),
    ("select < server.rb:start", "clients"),
    ("select < http_server.rb:worker_loop", "clients"),
    ("join < single.rb:run", "the end of its threads"),
    ("wait_readable < cluster.rb:run", "a signal"),
    ("wait_readable < runner.rb:%", "a signal"),
    ("wait < timeout.rb:create_timeout_thread", "work"),
];

/// Returns the function of a frame of PHP or Ruby as the tables have it.
pub(super) fn table_name(frame: &CodeFrame, function: &str) -> String {
    // `block (2 levels) in spawn_thread`: the name of a method has no space.
    let method = function.rsplit(" in ").next().unwrap_or(function);
    frame.file_name().map_or_else(|| function.to_owned(), |file| format!("{file}:{method}"))
}

/// Returns the origin of a frame of PHP or Ruby: the script's, or the interpreter's.
pub(super) fn origin(frame: &CodeFrame) -> FrameOrigin {
    const LIBRARIES: [&str; 5] = ["/vendor/", "/gems/", "/rubygems-integration/", "/vendor_ruby/", "/site_ruby/"];
    const INSTALLED: [&str; 3] = ["/usr/share/php/", "/usr/bin/", "/usr/local/bin/"];
    // An extension is a library in one of these folders, too.
    let path = frame.file.as_deref().or(frame.object.as_deref()).unwrap_or_default();
    let is_library = LIBRARIES.iter().any(|folder| path.contains(folder));
    if is_library || frame.object.is_none() && INSTALLED.iter().any(|folder| path.starts_with(folder)) {
        FrameOrigin::Library
    } else if frame.file.is_none() || path.starts_with("<internal:") || path.contains("/lib/ruby/") {
        FrameOrigin::Runtime
    } else {
        FrameOrigin::Application
    }
}

/// Returns what a process of PHP waits for that runs no script; `None` if it runs one, or does something else.
pub(super) fn idle_without_script(stack: &CodeStack) -> Option<&'static str> {
    if stack.language != CodeLanguage::Php || stack.state.as_deref() != Some(NO_SCRIPT) {
        return None;
    }
    let wait = stack.frames.iter().find_map(|frame| wait_of(frame, stack.language));
    // Machine code that was not read leaves no frames.
    if wait == Some(CodeWait::Accept) || stack.frames.is_empty() {
        Some("clients")
    } else {
        (wait == Some(CodeWait::Events)).then_some(EVENTS)
    }
}

/// Whether a thread of Ruby waits to enter a mutex or monitor: `synchronize` has not called its block.
pub(super) fn waits_to_enter(stack: &CodeStack) -> bool {
    let innermost = stack.frames.iter().find(|frame| frame.object.is_none());
    stack.language == CodeLanguage::Ruby
        && innermost.is_some_and(|frame| frame.file.is_none() && frame.function.as_deref() == Some("synchronize"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stacks::{StackGroup, ThreadWork, group_stacks};

    /// Returns the group of a stack: `function`, `function file` or `function object.so`, innermost first.
    fn group(language: CodeLanguage, state: Option<&str>, frames: &[&str]) -> StackGroup {
        let frame = |text: &&str| {
            let (function, place) = text.split_once(" at ").unwrap_or((text, ""));
            let place = Some(place.to_owned()).filter(|place| !place.is_empty());
            let (object, file) =
                if place.as_ref().is_some_and(|place| place.contains(".so")) { (place, None) } else { (None, place) };
            CodeFrame { function: Some(function.to_owned()), line: file.as_ref().map(|_| 7), file, object }
        };
        let (frames, state) = (frames.iter().map(frame).collect(), state.map(str::to_owned));
        let stack = CodeStack { language, tid: Some(7), name: None, state, lock_owner: None, frames, cut: None };
        group_stacks(&[stack]).remove(0)
    }

    #[test]
    fn a_script_of_php_waits_in_the_line_that_is_its_own() {
        for (frames, expected) in [
            (
                &[
                    "poll at /lib/libc.so.6",
                    "curl_exec",
                    "Client::send at /srv/app/vendor/client.php",
                    "pay at /srv/app/pay.php",
                ][..],
                "1 thread waits for data from a connection in pay (pay.php:7)",
            ),
            (
                &["flock at /lib/libc.so.6", "flock", "{main} at /srv/app/pay.php"],
                "1 thread waits for a lock in {main} (pay.php:7)",
            ),
            (
                &["PDO::__construct", "connect at /srv/app/db.php"],
                "1 thread waits for a connection to another program in connect (db.php:7)",
            ),
            (&["strlen", "count at /srv/app/db.php"], "1 thread in count (db.php:7)"),
        ] {
            assert_eq!(group(CodeLanguage::Php, None, frames).headline(), expected);
        }
    }

    #[test]
    fn a_process_of_php_without_a_script_is_idle_where_it_waits_for_requests() {
        let work = |frames: &[&str]| group(CodeLanguage::Php, Some(NO_SCRIPT), frames).work;
        assert_eq!(work(&["accept at /lib/libc.so.6", "main at /usr/lib/libphp.so"]), ThreadWork::Idle("clients"));
        assert_eq!(work(&["epoll_wait at /lib/libc.so.6"]), ThreadWork::Idle(EVENTS));
        assert_eq!(work(&[]), ThreadWork::Idle("clients"));
        assert_eq!(work(&["recv at /lib/libc.so.6"]), ThreadWork::Waits(CodeWait::Receive));
    }

    #[test]
    fn threads_of_ruby_that_wait_for_work_are_idle() {
        const POOL: &str =
            "block (2 levels) in spawn_thread at /var/lib/gems/3.1.0/gems/puma-6.0/lib/puma/thread_pool.rb";
        let work = |frames: &[&str]| group(CodeLanguage::Ruby, None, frames).work;
        assert_eq!(work(&["pthread_cond_wait at /lib/libc.so.6", "sleep", "wait", POOL]), ThreadWork::Idle("work"));
        // A library that an application's request has called waits for a connection.
        let busy = ["sleep", "wait", "wait_poll at /var/lib/gems/3.1.0/gems/activerecord-7/queue.rb", POOL];
        assert_eq!(work(&busy), ThreadWork::Waits(CodeWait::Pool));
    }

    #[test]
    fn a_block_that_waits_in_a_monitor_does_not_wait_for_it() {
        let work = |frames: &[&str]| group(CodeLanguage::Ruby, None, frames).work;
        let reserve = "block in reserve at /srv/app/orders.rb";
        assert_eq!(
            work(&["pthread_cond_wait at /lib/libc.so.6", "synchronize", reserve]),
            ThreadWork::Waits(CodeWait::Lock)
        );
        let library = "block in fetch at /srv/app/vendor/bundle/ruby/3.1.0/gems/cache-1/cache.rb";
        assert_eq!(work(&["sleep", "wait", library, "synchronize", reserve]), ThreadWork::Waits(CodeWait::Signal));
        assert_eq!(work(&["read", library, "synchronize", reserve]), ThreadWork::Waits(CodeWait::Read));
    }

    #[test]
    fn libraries_are_known_by_their_folders() {
        for (file, expected) in [
            ("/srv/app/orders.rb", FrameOrigin::Application),
            ("orders.php", FrameOrigin::Application),
            ("/srv/app/vendor/symfony/http-kernel/HttpKernel.php", FrameOrigin::Library),
            ("/usr/share/php/PEAR.php", FrameOrigin::Library),
            ("/usr/lib/ruby/3.1.0/net/protocol.rb", FrameOrigin::Runtime),
            ("/usr/local/lib/ruby/gems/3.3.0/gems/puma-6.4/lib/puma/server.rb", FrameOrigin::Library),
            ("/usr/lib/ruby/vendor_ruby/rack.rb", FrameOrigin::Library),
            ("<internal:kernel>", FrameOrigin::Runtime),
        ] {
            let frame = CodeFrame { file: Some(file.to_owned()), ..CodeFrame::default() };
            assert_eq!(frame.origin(CodeLanguage::Ruby), expected, "{file}");
        }
    }
}
