//! The kernel, made polite: driver, buffers, tasks, timers, sockets, mailboxes. All unsafe code of the project.
