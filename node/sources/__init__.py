"""Where experts come from: one interface, several sources, an order among them."""
