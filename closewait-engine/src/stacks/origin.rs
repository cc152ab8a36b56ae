//! Origin of frames: application, library, or runtime.

use std::ops::Range;

use super::{
    frame::{CodeFrame, CodeLanguage},
    jvm::{JDK_PACKAGES, JVM_LIBRARIES},
    scripts,
};

/// Part of a program that a function belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameOrigin {
    /// The program itself: what its authors can change.
    Application,
    /// A package that the program uses.
    Library,
    /// The language's standard library, its runtime, or a library of the system.
    Runtime,
}

/// Folders of system libraries, from the root of the process.
const SYSTEM_FOLDERS: [&str; 6] = ["/lib/", "/lib32/", "/lib64/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/"];
/// Folders of packages that `pip` and Linux distributions install.
const PYTHON_PACKAGES: [&str; 2] = ["/site-packages/", "/dist-packages/"];

impl CodeFrame {
    /// Returns the part of the program that has the function, in a stack of `language`.
    pub(super) fn origin(&self, language: CodeLanguage) -> FrameOrigin {
        match language {
            CodeLanguage::Python if self.language(language) == CodeLanguage::Native => of_interpreter(self),
            CodeLanguage::Go => of_go(self),
            CodeLanguage::Python => of_python(self),
            CodeLanguage::Native => of_machine_code(self),
            CodeLanguage::Jvm => of_jvm(self),
            CodeLanguage::Php | CodeLanguage::Ruby => scripts::origin(self),
        }
    }
}

/// The first element of an import path has a dot unless the package is of the standard library or of the main module (`go help
/// importpath`); the name of a main module may lack one, so the standard library is recognized by its files.
fn of_go(frame: &CodeFrame) -> FrameOrigin {
    let (Some(function), file) = (frame.function.as_deref(), frame.file.as_deref().unwrap_or_default()) else {
        return FrameOrigin::Runtime;
    };
    if function.starts_with("main.") {
        return FrameOrigin::Application;
    }
    // Distributions install packages to the last one.
    if file.contains("/pkg/mod/") || file.contains("/vendor/") || file.contains('@') || file.contains("/gocode/src/") {
        return FrameOrigin::Library;
    }
    let package = package(function);
    let has_dot = package.split('/').next().is_some_and(|first| first.contains('.'));
    // `sync.runtime_Semacquire` and others are defined in the package `runtime`, `syscall.RawSyscall6` in one of its packages
    // (`go:linkname`; go1.19 and go1.23).
    let in_toolchain = [package, "runtime", "runtime/internal/syscall", "internal/runtime/syscall"]
        .iter()
        .any(|package| is_in_toolchain(file, package));
    if in_toolchain && !has_dot { FrameOrigin::Runtime } else { FrameOrigin::Application }
}

/// Whether a file can be that of a package of the standard library: `/usr/local/go/src/net/http/server.go`, or `net/http/server.go` of a
/// program that was built with `-trimpath`.
fn is_in_toolchain(file: &str, package: &str) -> bool {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    folder == package || folder.strip_suffix(package).is_some_and(|rest| rest.ends_with("/src/"))
}

/// Returns the import path of a function's package: `net/http` of `net/http.(*conn).serve`.
fn package(function: &str) -> &str {
    let name = function.rfind('/').map_or(0, |slash| slash + 1);
    let dot = function[name..].find('.').map_or(function.len(), |dot| name + dot);
    &function[..dot]
}

fn of_python(frame: &CodeFrame) -> FrameOrigin {
    let Some(file) = frame.file.as_deref() else { return FrameOrigin::Runtime };
    if PYTHON_PACKAGES.iter().any(|folder| file.contains(folder)) {
        FrameOrigin::Library
    } else if file.starts_with('<') || is_standard_library(file) {
        FrameOrigin::Runtime
    } else {
        FrameOrigin::Application
    }
}

/// Functions below those of Python are the interpreter's, or those of a package's extension module.
fn of_interpreter(frame: &CodeFrame) -> FrameOrigin {
    let object = frame.object.as_deref().unwrap_or_default();
    let is_package = PYTHON_PACKAGES.iter().any(|folder| object.contains(folder));
    if is_package { FrameOrigin::Library } else { FrameOrigin::Runtime }
}

/// Whether a path is in the folder of the standard library: `/usr/lib/python3.11/threading.py`.
fn is_standard_library(file: &str) -> bool {
    file.match_indices("/python3.").any(|(at, found)| {
        let version = &file[at + found.len()..];
        let digits = version.bytes().take_while(u8::is_ascii_digit).count();
        // Free-threaded builds have a `t` there.
        let rest = version[digits..].strip_prefix('t').unwrap_or(&version[digits..]);
        digits > 0 && rest.starts_with('/') && file[..at].ends_with("/lib")
    }) || file.contains("/python3") && file.ends_with(".zip")
}

/// Packages of the JDK are known by their names, which no other package may have; those of libraries by the table.
fn of_jvm(frame: &CodeFrame) -> FrameOrigin {
    let Some(function) = frame.function.as_deref() else { return FrameOrigin::Runtime };
    let begins_with_one_of = |packages: &[&str]| packages.iter().any(|package| function.starts_with(package));
    if begins_with_one_of(&JDK_PACKAGES) {
        FrameOrigin::Runtime
    } else if begins_with_one_of(JVM_LIBRARIES) {
        FrameOrigin::Library
    } else {
        FrameOrigin::Application
    }
}

fn of_machine_code(frame: &CodeFrame) -> FrameOrigin {
    let Some(object) = frame.object.as_deref() else { return FrameOrigin::Runtime };
    let is_library = object.rsplit('/').next().is_some_and(|name| name.contains(".so"));
    match SYSTEM_FOLDERS.iter().any(|folder| object.starts_with(folder)) {
        true if is_library => FrameOrigin::Runtime,
        _ if object.starts_with('[') => FrameOrigin::Runtime,
        _ if is_library => FrameOrigin::Library,
        _ => of_executable(frame.function.as_deref().unwrap_or_default()),
    }
}

/// Beginnings of the names of functions that an executable can contain, and that are not its own: those of the C library in a static one
/// (ISO C reserves names that begin with two underscores), and of the standard libraries of C++ and Rust.
const LINKED: &[(&str, FrameOrigin)] = &[
    ("__", FrameOrigin::Runtime),
    ("pthread_", FrameOrigin::Runtime),
    ("start_thread", FrameOrigin::Runtime),
    ("std::", FrameOrigin::Runtime),
    ("core::", FrameOrigin::Runtime),
    ("alloc::", FrameOrigin::Runtime),
    ("<std::", FrameOrigin::Runtime),
    ("<core::", FrameOrigin::Runtime),
    ("<alloc::", FrameOrigin::Runtime),
    ("crossbeam_", FrameOrigin::Library),
    ("<crossbeam_", FrameOrigin::Library),
    ("parking_lot", FrameOrigin::Library),
    ("lock_api::", FrameOrigin::Library),
    ("tokio::", FrameOrigin::Library),
    ("<tokio::", FrameOrigin::Library),
    ("futures_", FrameOrigin::Library),
    ("rayon_core::", FrameOrigin::Library),
    ("mio::", FrameOrigin::Library),
    ("hyper::", FrameOrigin::Library),
    ("r2d2::", FrameOrigin::Library),
    ("postgres::", FrameOrigin::Library),
    ("tokio_postgres::", FrameOrigin::Library),
    ("uv_", FrameOrigin::Library),
    // Node. What calls these functions for JavaScript stands for the program's own functions, which have no names in memory.
    ("Builtins_", FrameOrigin::Application),
    ("node::", FrameOrigin::Runtime),
    ("v8::", FrameOrigin::Runtime),
];

/// Functions of the C library that block, or call those that do, sorted. In a static executable, they are the executable's. Other names
/// of them begin with two underscores.
const C_LIBRARY: &[&str] = &[
    "accept",
    "accept4",
    "clock_nanosleep",
    "cnd_timedwait",
    "cnd_wait",
    "connect",
    "epoll_pwait",
    "epoll_pwait2",
    "epoll_wait",
    "fcntl",
    "fcntl64",
    "fdatasync",
    "fflush",
    "fgetc",
    "fgets",
    "flock",
    "fputs",
    "fread",
    "fsync",
    "futex_wait",
    "fwrite",
    "getaddrinfo",
    "getc",
    "getdelim",
    "gethostbyname",
    "gethostbyname2_r",
    "gethostbyname_r",
    "getline",
    "lockf",
    "mq_receive",
    "mq_send",
    "mq_timedreceive",
    "mq_timedsend",
    "msgrcv",
    "msgsnd",
    "mtx_lock",
    "mtx_timedlock",
    "nanosleep",
    "open",
    "open64",
    "openat",
    "openat64",
    "pause",
    "pclose",
    "poll",
    "ppoll",
    "pread",
    "pread64",
    "preadv",
    "pselect",
    "puts",
    "pwrite",
    "pwrite64",
    "pwritev",
    "read",
    "readv",
    "recv",
    "recvfrom",
    "recvmmsg",
    "recvmsg",
    "res_query",
    "res_search",
    "res_send",
    "select",
    "sem_clockwait",
    "sem_timedwait",
    "sem_wait",
    "semop",
    "semtimedop",
    "send",
    "sendfile",
    "sendfile64",
    "sendmmsg",
    "sendmsg",
    "sendto",
    "sigsuspend",
    "sigtimedwait",
    "sigwait",
    "sigwaitinfo",
    "sleep",
    "splice",
    "syscall",
    "system",
    "thrd_join",
    "thrd_sleep",
    "usleep",
    "vfprintf",
    "wait",
    "wait3",
    "wait4",
    "waitid",
    "waitpid",
    "write",
    "writev",
];

/// Functions of the C library in which a program or a thread begins, sorted: those without two underscores.
const C_START: &[&str] = &["_start", "_start_c", "clone", "clone3", "libc_start_main_stage2", "start", "start_thread"];

/// Returns the number of the innermost of `frames` that are functions of the C library in a static executable. A program with libraries
/// has the C library among them, so that such a function of its executable is the program's own.
pub(super) fn static_c_library(frames: &[CodeFrame], language: CodeLanguage) -> usize {
    if !is_static(frames, language) {
        return 0;
    }
    let is_of_c = |frame: &&CodeFrame| is_in(C_LIBRARY, frame) || frame.origin(language) == FrameOrigin::Runtime;
    frames.iter().take_while(is_of_c).count()
}

/// Returns the positions of `frames` without the innermost and the outermost ones that are functions of the C library in a static
/// executable.
pub(super) fn within_c_library(frames: &[CodeFrame], language: CodeLanguage) -> Range<usize> {
    let inner = static_c_library(frames, language);
    inner..(frames.len() - static_c_start(frames, language)).max(inner)
}

/// Returns the number of the outermost of `frames` that are such functions in which a program or a thread begins.
fn static_c_start(frames: &[CodeFrame], language: CodeLanguage) -> usize {
    if !is_static(frames, language) {
        return 0;
    }
    frames.iter().rev().take_while(|frame| is_in(C_START, frame)).count()
}

/// Whether a stack of machine code has no function of a library.
fn is_static(frames: &[CodeFrame], language: CodeLanguage) -> bool {
    let is_library = |frame: &CodeFrame| frame.object.as_deref().is_some_and(|object| object.contains(".so"));
    language == CodeLanguage::Native && !frames.iter().any(is_library)
}

/// Whether a function of machine code is in a sorted table.
fn is_in(table: &[&str], frame: &CodeFrame) -> bool {
    let name = frame.table_name(CodeLanguage::Native);
    name.is_some_and(|name| table.binary_search(&name.as_str()).is_ok())
}

fn of_executable(function: &str) -> FrameOrigin {
    let linked =
        |name: &str| LINKED.iter().find(|(beginning, _)| name.starts_with(beginning)).map(|(_, origin)| *origin);
    // The program can implement its own traits for types of the standard library.
    let is_own_trait = trait_of(function).is_some_and(|name| linked(name).is_none());
    linked(function).filter(|_| !is_own_trait).unwrap_or(FrameOrigin::Application)
}

/// Returns the rest of a name of Rust from its trait on: `Lock>::lock` of `<std::sync::Mutex<Order> as Lock>::lock`.
fn trait_of(function: &str) -> Option<&str> {
    let mut depth = 0_usize;
    for (at, character) in function.char_indices() {
        match character {
            '<' => depth += 1,
            // In the type of a function, `->` is no bracket.
            '>' if !function[..at].ends_with('-') => depth = depth.saturating_sub(1),
            ' ' if depth == 1 && function.starts_with('<') => {
                if let Some(name) = function[at..].strip_prefix(" as ") {
                    return Some(name);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(function: &str, file: &str, object: &str) -> CodeFrame {
        let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        CodeFrame { function: some(function), file: some(file), line: Some(1), object: some(object) }
    }

    #[test]
    fn the_standard_library_of_go_is_known_by_its_files() {
        for (function, file, expected) in [
            ("main.handle", "/srv/app/main.go", FrameOrigin::Application),
            ("main.(*server).handle.func1", "main.go", FrameOrigin::Application),
            ("shop/orders.Reserve", "/srv/app/orders/orders.go", FrameOrigin::Application),
            ("github.com/acme/shop/orders.Reserve", "/srv/shop/orders/orders.go", FrameOrigin::Application),
            (
                "github.com/jackc/pgx/v5.connect",
                "/go/pkg/mod/github.com/jackc/pgx/v5@v5.1.0/conn.go",
                FrameOrigin::Library,
            ),
            ("net/http.(*conn).serve", "/usr/lib/go-1.19/src/net/http/server.go", FrameOrigin::Runtime),
            ("net/http.(*conn).serve", "net/http/server.go", FrameOrigin::Runtime),
            ("sync.runtime_SemacquireMutex", "/usr/local/go/src/runtime/sema.go", FrameOrigin::Runtime),
            ("runtime.gopark", "/usr/local/go/src/runtime/proc.go", FrameOrigin::Runtime),
            (
                "syscall.RawSyscall6",
                "/usr/lib/go-1.19/src/runtime/internal/syscall/syscall_linux.go",
                FrameOrigin::Runtime,
            ),
            ("syscall.RawSyscall6", "internal/runtime/syscall/syscall_linux.go", FrameOrigin::Runtime),
            ("sync.(*Mutex).lockSlow", "/usr/local/go/src/sync/mutex.go", FrameOrigin::Runtime),
        ] {
            assert_eq!(at(function, file, "/srv/app/server").origin(CodeLanguage::Go), expected, "{function} {file}");
        }
    }

    #[test]
    fn the_standard_library_of_python_is_known_by_its_folder() {
        for (file, expected) in [
            ("/srv/app/orders.py", FrameOrigin::Application),
            ("orders.py", FrameOrigin::Application),
            ("/home/python3.me/orders.py", FrameOrigin::Application),
            ("/usr/lib/python3.11/threading.py", FrameOrigin::Runtime),
            ("/opt/lib/python3.13t/threading.py", FrameOrigin::Runtime),
            ("<frozen importlib._bootstrap>", FrameOrigin::Runtime),
            ("/usr/lib/python3/dist-packages/flask/app.py", FrameOrigin::Library),
            ("/srv/venv/lib/python3.12/site-packages/flask/app.py", FrameOrigin::Library),
        ] {
            assert_eq!(at("f", file, "").origin(CodeLanguage::Python), expected, "{file}");
        }
    }

    #[test]
    fn packages_of_java_are_known_by_their_names() {
        for (function, expected) in [
            ("Orders.reserve", FrameOrigin::Application),
            ("com.acme.shop.Orders$Inner.lambda$reserve$3", FrameOrigin::Application),
            ("javassist.Orders.reserve", FrameOrigin::Application),
            ("java.util.concurrent.ThreadPoolExecutor.getTask", FrameOrigin::Runtime),
            ("jdk.internal.misc.Unsafe.park", FrameOrigin::Runtime),
            ("sun.nio.ch.EPoll.wait", FrameOrigin::Runtime),
            ("org.apache.tomcat.util.net.NioEndpoint$Poller.run", FrameOrigin::Library),
            ("org.springframework.web.servlet.DispatcherServlet.doDispatch", FrameOrigin::Library),
            ("com.zaxxer.hikari.pool.HikariPool.getConnection", FrameOrigin::Library),
            ("kotlinx.coroutines.scheduling.CoroutineScheduler$Worker.park", FrameOrigin::Library),
        ] {
            assert_eq!(at(function, "", "").origin(CodeLanguage::Jvm), expected, "{function}");
        }
    }

    #[test]
    fn libraries_of_the_system_are_no_application() {
        for (object, expected) in [
            ("/srv/app/server", FrameOrigin::Application),
            ("/usr/sbin/nginx", FrameOrigin::Application),
            ("/usr/lib/postgresql/15/bin/postgres", FrameOrigin::Application),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", FrameOrigin::Runtime),
            ("/lib/ld-musl-x86_64.so.1", FrameOrigin::Runtime),
            ("[vdso]", FrameOrigin::Runtime),
            ("/opt/oracle/libclntsh.so.19.1", FrameOrigin::Library),
        ] {
            assert_eq!(at("f", "", object).origin(CodeLanguage::Native), expected, "{object}");
        }
    }

    #[test]
    fn functions_of_the_c_library_are_its_own_in_a_static_executable_only() {
        assert!(C_LIBRARY.is_sorted() && C_START.is_sorted());
        let stack = |frames: &[(&str, &str)]| -> Vec<CodeFrame> {
            frames.iter().map(|(function, object)| at(function, "", object)).collect()
        };
        let frames = [
            ("__syscall_cp_c", "/srv/app/server"),
            ("recv", "/srv/app/server"),
            ("shop::reserve", "/srv/app/server"),
            ("read", "/srv/app/server"),
        ];
        assert_eq!(static_c_library(&stack(&frames), CodeLanguage::Native), 2);
        assert_eq!(static_c_start(&stack(&frames), CodeLanguage::Native), 0);
        let frames = [("start", "/srv/app/server"), ("start_thread", "/srv/app/server"), ("clone3", "/srv/app/server")];
        assert_eq!(static_c_start(&stack(&frames), CodeLanguage::Native), 3);
        let frames = [("start", "/srv/app/server"), ("start_thread", "/usr/lib/libc.so.6")];
        assert_eq!(static_c_start(&stack(&frames), CodeLanguage::Native), 0);
        // A method of C++ with that name, for example.
        let frames = [("__recv", "/usr/lib/libc.so.6"), ("recv", "/srv/app/server"), ("reserve", "/srv/app/server")];
        assert_eq!(static_c_library(&stack(&frames), CodeLanguage::Native), 0);
    }

    #[test]
    fn functions_of_libraries_in_an_executable_are_not_its_own() {
        for (function, expected) in [
            ("shop::reserve", FrameOrigin::Application),
            ("std::sys::sync::mutex::futex::Mutex::lock_contended", FrameOrigin::Runtime),
            ("<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once", FrameOrigin::Runtime),
            ("<shop::Orders as core::ops::function::FnOnce<()>>::call_once", FrameOrigin::Application),
            ("<std::sync::poison::mutex::Mutex<shop::Order> as shop::Lock>::lock", FrameOrigin::Application),
            ("<alloc::vec::Vec<T> as shop::Lock>::lock", FrameOrigin::Application),
            ("<alloc::vec::Vec<T> as core::iter::FromIterator<T>>::from_iter", FrameOrigin::Runtime),
            ("<std::net::tcp::TcpListener>::accept", FrameOrigin::Runtime),
            ("<std::x::F<fn() -> <a::B as c::D>::E> as core::ops::Fn>::call", FrameOrigin::Runtime),
            ("crossbeam_channel::flavors::list::Channel<T>::recv", FrameOrigin::Library),
            ("__futex_abstimed_wait_common", FrameOrigin::Runtime),
            ("std::condition_variable::wait", FrameOrigin::Runtime),
            ("node::SyncProcessRunner::Spawn", FrameOrigin::Runtime),
            ("Builtins_CEntry_Return1_ArgvOnStack_BuiltinExit", FrameOrigin::Application),
        ] {
            assert_eq!(at(function, "", "/srv/app/server").origin(CodeLanguage::Native), expected, "{function}");
        }
    }
}
