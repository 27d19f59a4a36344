//! Turns THE LIST into closed enums: no filter is boxed, no call is dynamic.
//!
//! The macro is used once, in the module above; it knows no filter by name.

macro_rules! filters {
    ($($(#[$meta:meta])* $module:ident::$filter:ident),* $(,)?) => {
        $($(#[$meta])* pub mod $module;)*
        $($(#[$meta])* use $module::$filter;)*

        /// A compiled filter.
        #[derive(Debug)]
        pub enum FilterConfig { $($(#[$meta])* $filter(Arc<$filter>),)* }

        /// What a route, or a level above it, says to a filter.
        #[derive(Debug)]
        pub enum RouteConfig { $($(#[$meta])* $filter(<$filter as Filter>::Route),)* }

        #[derive(Debug)]
        enum Twin { $($(#[$meta])* $filter(Arc<$filter>, <$filter as Filter>::Local),)* }

        #[derive(Debug)]
        enum Active<'c> { $($(#[$meta])* $filter(Running<'c, $filter>),)* }

        fn compile_any(config: &Any, lookup: Lookup<'_>, at: &At<'_>) -> Option<Result<FilterConfig, Wrong>> {
            match values::type_name(config) {
                $($(#[$meta])* <$filter as Filter>::TYPE => {
                    Some($filter::compile(config, lookup, at).map(|f| FilterConfig::$filter(Arc::new(f))))
                })*
                _ => None,
            }
        }

        /// Compiles what a level says to a filter. `None`: no filter has messages of that type.
        pub fn compile_route(
            config: &Any,
            lookup: Lookup<'_>,
            at: &At<'_>,
        ) -> Option<Result<RouteConfig, Wrong>> {
            match values::type_name(config) {
                $($(#[$meta])* <$filter as Filter>::ROUTE_TYPE => {
                    Some($filter::compile_route(config, lookup, at).map(RouteConfig::$filter))
                })*
                _ => None,
            }
        }

        impl FilterConfig {
            fn local(&self, place: &Place<'_>) -> Twin {
                match self {
                    $($(#[$meta])* FilterConfig::$filter(f) => Twin::$filter(Arc::clone(f), f.local(place)),)*
                }
            }
        }

        impl<'c> Active<'c> {
            fn new(twin: &'c Twin) -> Active<'c> {
                match twin {
                    $($(#[$meta])* Twin::$filter(filter, local) => {
                        let state = <$filter as Filter>::Stream::default();
                        Active::$filter(Running { filter, local, route: None, state })
                    })*
                }
            }

            /// Takes what its route says, if that is meant for a filter of this kind.
            fn set_route(&mut self, config: Option<&'c RouteConfig>) {
                match self {
                    $($(#[$meta])* Active::$filter(one) => one.route = match config {
                        Some(RouteConfig::$filter(route)) => Some(route),
                        _ => None,
                    },)*
                }
            }

            fn wants(&mut self, way: Dir, cx: &mut Cx<'_>) -> Wants {
                match (self, way) {
                    $($(#[$meta])* (Active::$filter(one), Dir::Request) => $filter::wants(one, cx),
                    $(#[$meta])* (Active::$filter(one), Dir::Response) => $filter::wants_response(one, cx),)*
                }
            }

            fn head(&mut self, way: Dir, cx: &mut Cx<'_>) -> Verdict {
                match (self, way) {
                    $($(#[$meta])* (Active::$filter(one), Dir::Request) => $filter::request_head(one, cx),
                    $(#[$meta])* (Active::$filter(one), Dir::Response) => $filter::response_head(one, cx),)*
                }
            }

            fn chunk(&mut self, way: Dir, cx: &mut Cx<'_>) -> ChunkVerdict {
                match (self, way) {
                    $($(#[$meta])* (Active::$filter(one), Dir::Request) => $filter::request_chunk(one, cx),
                    $(#[$meta])* (Active::$filter(one), Dir::Response) => $filter::response_chunk(one, cx),)*
                }
            }

            fn trailers(&mut self, way: Dir, cx: &mut Cx<'_>) -> Verdict {
                match (self, way) {
                    $($(#[$meta])* (Active::$filter(one), Dir::Request) => $filter::request_trailers(one, cx),
                    $(#[$meta])* (Active::$filter(one), Dir::Response) => $filter::response_trailers(one, cx),)*
                }
            }
        }
    };
}
pub(super) use filters;
