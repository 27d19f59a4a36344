//! Tasks, timers, letters, panics.

use super::*;

#[test]
fn timers_mailboxes_events_and_panics() {
    on_each_driver(|rt| async move {
        let begun = rt.now();
        rt.sleep(Duration::from_millis(15)).await;
        assert!(rt.now() - begun >= Duration::from_millis(15), "never early");

        let (sender, receiver) = rt.mailbox::<u32>(2);
        let ringer = thread::spawn(move || {
            thread::yield_now();
            sender.send(41).expect("room");
            sender.send(42).expect("room");
            sender
        });
        assert_eq!((receiver.recv().await, receiver.recv().await), (41, 42));
        let sender = ringer.join().expect("rang");
        assert_eq!((sender.send(1), sender.send(2), sender.send(3)), (Ok(()), Ok(()), Err(3)));

        // Letters of control have room of their own, and overtake.
        assert_eq!(sender.send_control(9), Ok(()));
        assert_eq!((receiver.recv().await, receiver.recv().await), (9, 1));

        let event = rt.event();
        let seen = Rc::new(RefCell::new(Vec::new()));
        let (waiter, log) = (event.clone(), Rc::clone(&seen));
        rt.spawn(async move {
            waiter.wait().await;
            log.borrow_mut().push("woken");
        });
        rt.yield_now().await;
        assert!(seen.borrow().is_empty());
        event.notify();
        rt.yield_now().await;
        assert_eq!(*seen.borrow(), ["woken"]);

        let log = Rc::clone(&seen);
        rt.on_panic(move |text| log.borrow_mut().push(if text == "planted" { "caught" } else { "?" }));
        rt.spawn(async { panic!("planted") });
        rt.yield_now().await;
        assert_eq!((&*seen.borrow(), rt.panics()), (&vec!["woken", "caught"], 1));

        let forever = rt.spawn(std::future::pending());
        rt.yield_now().await;
        rt.abort(forever);
    });
}

#[test]
fn a_timer_wakes_the_task_that_waits_for_it_now() {
    on_each_driver(|rt| async move {
        // Armed by this task, for much later.
        let mut sleep = rt.sleep(Duration::from_millis(5));
        let _armed = sleep.poll_due();
        let (done, heir) = (Rc::new(Cell::new(false)), rt.clone());
        let seen = Rc::clone(&done);
        rt.spawn(async move {
            sleep.await;
            assert!(heir.now() > Instant::default());
            seen.set(true);
        });
        until(&rt, || done.get()).await;
    });
}

#[test]
fn a_panic_ends_its_task_only_also_in_a_destructor() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in drop");
        }
    }
    on_each_driver(|rt| async move {
        let said = Rc::new(RefCell::new(Vec::new()));
        let log = Rc::clone(&said);
        rt.on_panic(move |text| log.borrow_mut().push(text.to_owned()));
        let (listener, address) = listen(&rt);
        let mut client = std_connect(&address);
        let socket = listener.accept().await.expect("accepted");
        // It ends with what it owns: the peer sees the end.
        rt.spawn(async move {
            let _owned = socket;
            panic!("with {} parts", 2);
        });
        let aborted = rt.spawn(async {
            let _bomb = Bomb;
            std::future::pending::<()>().await;
        });
        rt.yield_now().await;
        rt.abort(aborted);
        assert_eq!(
            (rt.panics(), &*said.borrow()),
            (2, &vec!["with 2 parts".to_owned(), "in drop".to_owned()])
        );
        rt.yield_now().await;
        rt.yield_now().await;
        assert_eq!(client.read(&mut [0]).expect("an end"), 0);
        // The slots serve on.
        let ran = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let ran = Rc::clone(&ran);
            rt.spawn(async move { ran.set(ran.get() + 1) });
        }
        rt.yield_now().await;
        assert_eq!(ran.get(), 3);
    });
}

#[test]
fn letters_from_many_threads_lose_no_wake_up() {
    on_each_driver(|rt| async move {
        const EACH: u32 = 2_000;
        let (sender, receiver) = rt.mailbox::<u32>(64);
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let sender = sender.clone();
                thread::spawn(move || {
                    for n in 0..EACH {
                        let mut letter = n;
                        while let Err(back) = sender.send(letter) {
                            letter = back;
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut sum = 0u64;
        for _ in 0..3 * EACH {
            sum += u64::from(receiver.recv().await);
        }
        assert_eq!(sum, 3 * u64::from(EACH) * u64::from(EACH - 1) / 2);
        threads.into_iter().for_each(|thread| thread.join().expect("sent"));
    });
}

#[test]
fn watching_before_sleeping_changes_no_result() {
    for driver in [DriverChoice::Uring, DriverChoice::Epoll] {
        let config = Config { spin_us: 50, ..config(driver) };
        let Ok(runtime) = Runtime::new(&config).inspect_err(|error| missing(driver, error)) else { continue };
        let rt = runtime.handle();
        runtime.run(async move {
            let (listener, address) = listen(&rt);
            let client = thread::spawn(move || {
                let mut stream = std_connect(&address);
                for round in 0..200u8 {
                    let mut back = [0; 3];
                    stream.write_all(&[round; 3]).expect("sent");
                    stream.read_exact(&mut back).expect("echoed");
                    assert_eq!(back, [round; 3]);
                }
            });
            echo(listener.accept().await.expect("accepted")).await;
            client.join().expect("the client is content");
            let begun = rt.now();
            rt.sleep(Duration::from_millis(3)).await;
            assert!((3..1_000).contains(&rt.now().millis_since(begun)));
        });
    }
}
