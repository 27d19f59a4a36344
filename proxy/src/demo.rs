//! `selvedge demo`: the main job, shown.
