"""The books: what a coordinator must not forget, in SQL."""
