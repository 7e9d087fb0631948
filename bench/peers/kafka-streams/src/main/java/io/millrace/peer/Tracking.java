package io.millrace.peer;

import java.nio.ByteBuffer;
import java.time.Instant;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import millrace.OrderAccepted;
import millrace.OrderEvent;
import millrace.OrderRejected;
import millrace.PaymentEvent;
import millrace.RejectReason;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.common.serialization.Serializer;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/** Folds the events of an order into what people are shown. Decides nothing. */
final class Tracking extends Stage {
    static final String VIEWS = "orders-view";
    private static final int HISTORY_MAX = 50;

    /** How the parts of a view are kept: as they are on their topics. */
    record Forms(
            Serializer<OrderAccepted> accepted,
            Serializer<OrderRejected> rejected,
            Serializer<PaymentEvent> payment,
            Serializer<OrderEvent> order) {}

    private final Forms forms;
    private KeyValueStore<String, OrderView> views;

    Tracking(Map<String, String[]> routes, Forms forms) {
        super(routes);
        this.forms = forms;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        super.init(context);
        views = context.getStateStore(VIEWS);
    }

    @Override
    public void process(Record<String, SpecificRecord> record) {
        OrderView view = views.get(record.key());
        if (view == null) {
            view = new OrderView(null, null, null, 0L, null, 0L, new ArrayList<>(4));
        }
        if (record.value() instanceof OrderAccepted order) {
            String method = order.getPaymentMethod();
            order.setPaymentMethod(""); // nobody is shown it
            view.setAccepted(ByteBuffer.wrap(forms.accepted().serialize(Topics.ACCEPTED, order)));
            order.setPaymentMethod(method);
            note(view, order.getAcceptedAt(), "order.accepted", "");
        } else if (record.value() instanceof OrderRejected order) {
            boolean duplicate = order.getReason() == RejectReason.CONFLICTING_DUPLICATE;
            if (!duplicate) {
                view.setRejected(ByteBuffer.wrap(forms.rejected().serialize(Topics.REJECTED, order)));
            }
            note(view, order.getRejectedAt(), duplicate ? "order.duplicate_refused" : "order.rejected", order.getDetail());
        } else if (record.value() instanceof PaymentEvent payment) {
            if (payment.getVersion() <= view.getPaymentVersion()) {
                return;
            }
            view.setPayment(ByteBuffer.wrap(forms.payment().serialize(Topics.PAYMENT_EVENTS, payment)));
            view.setPaymentVersion(payment.getVersion());
            note(view, payment.getAt(), "payment." + payment.getKind().name().toLowerCase(Locale.ROOT), payment.getDetail());
        } else if (record.value() instanceof OrderEvent order) {
            if (order.getVersion() <= view.getOrderVersion()) {
                return;
            }
            view.setOrder(ByteBuffer.wrap(forms.order().serialize(Topics.ORDER_EVENTS, order)));
            view.setOrderVersion(order.getVersion());
            note(view, order.getAt(), "order." + order.getKind().name().toLowerCase(Locale.ROOT), order.getDetail());
        }
        views.put(record.key(), view);
    }

    private static void note(OrderView view, Instant at, String event, String detail) {
        List<Happened> history = view.getHistory();
        if (history.size() == HISTORY_MAX) {
            history.remove(0);
        }
        history.add(new Happened(at.toEpochMilli(), event, detail));
    }
}
