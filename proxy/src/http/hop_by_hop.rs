//! Fields that end at a hop.
