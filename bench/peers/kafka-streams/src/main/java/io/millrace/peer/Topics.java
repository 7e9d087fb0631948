package io.millrace.peer;

/** The topics of the shop that the measured path touches. */
final class Topics {
    static final String PLACED = "orders.placed";
    static final String ACCEPTED = "orders.accepted";
    static final String REJECTED = "orders.rejected";
    static final String CANCEL_REQUESTED = "orders.cancel-requested";
    static final String PAYMENT_COMMANDS = "payments.commands";
    static final String PAYMENT_EVENTS = "payments.events";
    static final String STOCK_COMMANDS = "stock.commands";
    static final String STOCK_EVENTS = "stock.events";
    static final String ADJUSTMENTS = "stock.adjustments";
    static final String LEVELS = "stock.levels";
    static final String PRODUCTS = "catalog.products";
    static final String ORDER_EVENTS = "orders.events";

    private Topics() {}
}
