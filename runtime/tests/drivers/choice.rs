//! Which driver runs, and why.

use super::*;

/// Forbids the calling thread to make rings, as the profiles of many container engines do.
fn forbid_io_uring() {
    const LOAD_NUMBER: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const ERRNO: u32 = 0x0005_0000;
    let number = u32::try_from(libc::SYS_io_uring_setup).expect("a small number");
    let step = |code, jt, k| libc::sock_filter { code, jt, jf: 0, k };
    let mut steps = [
        step(LOAD_NUMBER, 0, 0),
        step(JUMP_IF_EQUAL, 1, number),
        step(RETURN, 0, ALLOW),
        step(RETURN, 0, ERRNO | libc::EPERM.cast_unsigned()),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // WHY: without it only root may filter.
    // SAFETY: no pointers.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // WHY: a filter is the one thing that makes this kernel refuse without asking for other rights.
    // SAFETY: the program and its steps live across the call.
    let set = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn where_io_uring_is_forbidden_epoll_runs_and_says_why() {
    // The filter holds for this thread, and ends with it.
    let thread = thread::spawn(|| {
        forbid_io_uring();
        let auto = Runtime::new(&config(DriverChoice::Auto)).expect("epoll runs everywhere");
        assert_eq!(auto.driver().kind, DriverKind::Epoll);
        let why = "io_uring cannot run here: io_uring_setup: Operation not permitted (os error 1)";
        assert_eq!(auto.driver().reason, why);
        let rt = auto.handle();
        auto.run(async move {
            let (listener, address) = listen(&rt);
            let mut client = std_connect(&address);
            client.write_all(b"served").expect("sent");
            let socket = listener.accept().await.expect("accepted");
            assert_eq!(&*socket.recv().await.expect("bytes").expect("not the end"), b"served");
        });
        let asked = Runtime::new(&config(DriverChoice::Uring)).expect_err("it was asked for").to_string();
        assert!(asked.starts_with("driver uring was asked for and cannot run: io_uring_setup:"), "{asked}");
    });
    thread.join().expect("the thread is content");
}

#[test]
fn what_was_asked_for_runs() {
    let epoll = Runtime::new(&config(DriverChoice::Epoll)).expect("epoll runs everywhere");
    assert_eq!((epoll.driver().kind, &*epoll.driver().reason), (DriverKind::Epoll, "asked for"));
    match Runtime::new(&config(DriverChoice::Uring)) {
        Ok(ring) => {
            assert_eq!((ring.driver().kind, &*ring.driver().reason), (DriverKind::Uring, "asked for"));
            let auto = Runtime::new(&config(DriverChoice::Auto)).expect("a driver");
            assert_eq!(
                (auto.driver().kind, &*auto.driver().reason),
                (DriverKind::Uring, "the kernel offers it")
            );
        }
        Err(error) => missing(DriverChoice::Uring, &error),
    }
}
