package io.millrace.peer;

import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import millrace.OrderLine;
import millrace.OrderPlaced;

/** Tells whether two submits of one order id are the same order; the same form as everywhere in the shop. */
final class Fingerprint {
    private static final ThreadLocal<MessageDigest> SHA256 = ThreadLocal.withInitial(() -> {
        try {
            return MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    });

    private Fingerprint() {}

    static String of(OrderPlaced order) {
        MessageDigest digest = SHA256.get();
        digest.reset();
        text(digest, "customer_id", order.getCustomerId());
        text(digest, "currency", order.getCurrency());
        for (OrderLine line : order.getLines()) {
            text(digest, "line.sku", line.getSku());
            number(digest, "line.quantity", line.getQuantity());
        }
        text(digest, "payment_method", order.getPaymentMethod());
        if (order.getExpectedTotal() != null) {
            number(digest, "expected_total.minor", order.getExpectedTotal().getMinor());
            text(digest, "expected_total.currency", order.getExpectedTotal().getCurrency());
        }
        text(digest, "channel", order.getChannel());
        return HexFormat.of().formatHex(digest.digest(), 0, 16);
    }

    private static void text(MessageDigest digest, String name, String value) {
        part(digest, name.getBytes(StandardCharsets.UTF_8));
        part(digest, value.getBytes(StandardCharsets.UTF_8));
    }

    private static void number(MessageDigest digest, String name, long value) {
        part(digest, name.getBytes(StandardCharsets.UTF_8));
        part(digest, bytes(value));
    }

    private static void part(MessageDigest digest, byte[] bytes) {
        digest.update(bytes(bytes.length));
        digest.update(bytes);
    }

    private static byte[] bytes(long value) {
        byte[] out = new byte[8];
        for (int at = 7; at >= 0; at--) {
            out[at] = (byte) value;
            value >>>= 8;
        }
        return out;
    }
}
