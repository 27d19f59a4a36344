//! Scopes, their blocks, and the registry that a scrape walks.
