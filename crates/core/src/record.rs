//! What members write into the store, key by key; the layout under `/service/<scope>/` is Patroni's.
