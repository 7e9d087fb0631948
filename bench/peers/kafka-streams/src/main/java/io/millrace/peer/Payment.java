package io.millrace.peer;

import java.time.Duration;
import java.time.Instant;
import java.util.Map;
import millrace.DeclineKind;
import millrace.OpenCall;
import millrace.OrderAccepted;
import millrace.PaymentCommand;
import millrace.PaymentCommandKind;
import millrace.PaymentEvent;
import millrace.PaymentEventKind;
import millrace.PaymentState;
import millrace.ProviderOperation;
import millrace.WaitsFor;
import org.apache.avro.specific.SpecificRecord;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;

/**
 * Keeps the one payment of an order. The provider is in this process, so it is asked within the step,
 * under a key that makes a repetition harmless.
 */
final class Payment extends Stage {
    static final String PAYMENTS = "payments";
    private static final Duration ANSWER_WITHIN = Duration.ofSeconds(60);
    private static final Duration AUTHORIZATION_VALID = Duration.ofDays(6);

    private final Provider provider;
    private KeyValueStore<String, PaymentEvent> payments;

    Payment(Map<String, String[]> routes, Provider provider) {
        super(routes);
        this.provider = provider;
    }

    @Override
    public void init(ProcessorContext<String, SpecificRecord> context) {
        super.init(context);
        payments = context.getStateStore(PAYMENTS);
    }

    @Override
    public void process(Record<String, SpecificRecord> record) {
        if (record.value() instanceof OrderAccepted order) {
            accepted(order);
        } else if (record.value() instanceof PaymentCommand command
                && command.getKind() == PaymentCommandKind.VOID) {
            letGo(command);
        }
    }

    private void accepted(OrderAccepted order) {
        PaymentEvent payment = payments.get(order.getOrderId());
        if (payment != null && payment.getState() != PaymentState.UNKNOWN) {
            return;
        }
        boolean voidWanted = payment != null && payment.getVoidWanted();
        if (payment == null) {
            payment = nothingKnown(order.getOrderId());
        }
        payment.setCurrency(order.getTotal().getCurrency());
        payment.setRequestedMinor(order.getTotal().getMinor());
        payment.setPaymentMethod(order.getPaymentMethod());
        if (voidWanted) {
            settle(payment, PaymentState.VOIDED, PaymentEventKind.VOIDED,
                    "the void came before the order; the provider was never asked");
            return;
        }
        Provider.Answer answer = null;
        while (answer == null || (!answer.approved() && answer.soft() && payment.getAttempt() < 2)) {
            String key = begin(payment, ProviderOperation.AUTHORIZE, "authorize", payment.getRequestedMinor(),
                    payment.getAttempt() + 1, PaymentEventKind.AUTHORIZATION_REQUESTED, "");
            answer = provider.authorize(payment.getOrderId(), key, payment.getRequestedMinor(),
                    payment.getCurrency(), payment.getPaymentMethod());
        }
        if (answer.approved()) {
            payment.setAuthorizedMinor(answer.amountMinor());
            payment.setProviderReference(answer.reference());
            settle(payment, PaymentState.AUTHORIZED, PaymentEventKind.AUTHORIZED, "");
        } else {
            payment.setDeclineKind(answer.soft() ? DeclineKind.SOFT : DeclineKind.HARD);
            payment.setDeclineCode(answer.decline());
            settle(payment, PaymentState.DECLINED, PaymentEventKind.DECLINED, "");
        }
    }

    private void letGo(PaymentCommand command) {
        PaymentEvent payment = payments.get(command.getOrderId());
        if (payment == null) {
            payment = nothingKnown(command.getOrderId());
        }
        boolean repeated = payment.getVoidWanted();
        payment.setVoidWanted(true);
        if (payment.getState() == PaymentState.UNKNOWN && !repeated) {
            settle(payment, PaymentState.UNKNOWN, PaymentEventKind.VOID_REQUESTED, "remembered until the order comes");
        } else if (payment.getState() == PaymentState.AUTHORIZED) {
            long held = payment.getAuthorizedMinor();
            String key = begin(payment, ProviderOperation.VOID, "void", held, 1,
                    PaymentEventKind.VOID_REQUESTED, command.getReason());
            Provider.Answer answer = provider.letGo(payment.getOrderId(), key, held, payment.getCurrency(),
                    payment.getPaymentMethod());
            payment.setVoidedMinor(held);
            settle(payment, PaymentState.VOIDED, PaymentEventKind.VOIDED,
                    answer.approved() ? "" : "the provider had let it go before");
        }
    }

    /** The request is on record before it is made. */
    private String begin(PaymentEvent payment, ProviderOperation operation, String word, long amount, int attempt,
            PaymentEventKind kind, String detail) {
        Instant now = now();
        String key = payment.getOrderId() + "/" + word + "/" + attempt;
        payment.setAttempt(attempt);
        payment.setState(operation == ProviderOperation.VOID ? PaymentState.VOIDING : PaymentState.AUTHORIZING);
        payment.setCall(new OpenCall(operation, key, amount, false, 1, now));
        payment.setDeclineKind(null);
        payment.setDeclineCode(null);
        payment.setWaitsFor(WaitsFor.PROVIDER);
        payment.setUntil(now.plus(ANSWER_WITHIN));
        publish(payment, kind, detail, now);
        return key;
    }

    private void settle(PaymentEvent payment, PaymentState state, PaymentEventKind kind, String detail) {
        Instant now = now();
        payment.setState(state);
        payment.setCall(null);
        switch (state) {
            case AUTHORIZED -> {
                payment.setWaitsFor(WaitsFor.FULFILLMENT);
                payment.setUntil(now.plus(AUTHORIZATION_VALID));
            }
            case UNKNOWN -> {
                payment.setWaitsFor(WaitsFor.INTAKE);
                payment.setUntil(now.plus(AUTHORIZATION_VALID));
            }
            default -> {
                payment.setWaitsFor(WaitsFor.NOBODY);
                payment.setUntil(null);
            }
        }
        publish(payment, kind, detail, now);
    }

    private void publish(PaymentEvent payment, PaymentEventKind kind, String detail, Instant now) {
        payment.setKind(kind);
        payment.setVersion(payment.getVersion() + 1);
        payment.setDetail(detail);
        payment.setAt(now);
        payments.put(payment.getOrderId(), payment);
        emit(Topics.PAYMENT_EVENTS, payment.getOrderId(), payment, now);
    }

    private static PaymentEvent nothingKnown(String orderId) {
        PaymentEvent payment = new PaymentEvent();
        payment.setOrderId(orderId);
        payment.setKind(PaymentEventKind.UNKNOWN);
        payment.setState(PaymentState.UNKNOWN);
        payment.setCurrency("");
        payment.setPaymentMethod("");
        payment.setWaitsFor(WaitsFor.NOBODY);
        payment.setDetail("");
        return payment;
    }
}
