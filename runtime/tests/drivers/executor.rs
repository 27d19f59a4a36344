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
