//! The real file, whole: the counts everybody reports for it, and totals worked out a second way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::io::BufReader;
use std::sync::OnceLock;

use millrace_replay::{ReplayEvent, Selection, Shop, Stock, order_id};

fn file() -> BufReader<File> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../bench/data/online_retail.csv.zst");
    BufReader::new(File::open(path).expect("the data set is in the repository"))
}

fn shop(orders: Option<usize>, stock: Stock) -> Shop {
    Shop::read(file(), Selection { orders, stock }).expect("the data set can be read")
}

fn whole() -> &'static Shop {
    static WHOLE: OnceLock<Shop> = OnceLock::new();
    WHOLE.get_or_init(|| shop(None, Stock::Unlimited))
}

#[test]
fn every_true_order_is_placed() {
    let mapping = whole().mapping();
    assert_eq!(mapping.lines_read, 541_909);
    assert_eq!(mapping.invoices, 25_900);
    assert_eq!(mapping.orders, 19_959);
    assert_eq!(mapping.orders_selected, 19_959);
    assert_eq!(mapping.order_lines, 530_503);
    assert_eq!(mapping.longest_order, 1_114);
    assert_eq!(mapping.service_orders, 186);
    let out = &mapping.order_lines_left_out;
    assert_eq!(mapping.order_lines, mapping.order_lines_kept + out.service + out.no_price + out.no_units);
    assert_eq!(out.no_units, 0);
    assert_eq!(mapping.worthless_invoices + mapping.write_offs + mapping.write_offs_left_out, 2_102);
    assert_eq!(mapping.write_offs + mapping.write_offs_left_out, 1_336);
    let cancellations = &mapping.cancellations;
    let all = cancellations.requested
        + cancellations.of_unselected_orders
        + cancellations.of_part
        + cancellations.of_nothing
        + cancellations.without_customer;
    assert_eq!(all, 3_836);
    assert_eq!(cancellations.of_unselected_orders, 0);
    assert_eq!(mapping.other_invoices, 3);
}

#[test]
fn events_are_in_order_of_time_and_add_up() {
    let shop = whole();
    let (mut ids, mut lines, mut units, mut pence) = (HashSet::new(), 0u64, 0i64, 0i64);
    let (mut cancelled, mut written_off, mut last) = (HashSet::new(), 0u64, i64::MIN);
    let stocked: HashSet<&str> = shop.opening_stock().iter().map(|a| a.sku.as_str()).collect();
    let sold: HashMap<&str, i64> = shop.catalog().iter().map(|p| (p.sku.as_str(), p.unit_price.minor)).collect();
    assert!(sold.values().all(|price| *price > 0));
    for event in shop.events() {
        assert!(event.at() >= last);
        last = event.at();
        match event {
            ReplayEvent::Placed(order) => {
                assert_eq!(order.order_id.len(), 36);
                assert!(ids.insert(order.order_id.clone()), "{} twice", order.order_id);
                assert!(!order.lines.is_empty() && order.lines.len() <= 1_114);
                let mut cost = 0;
                for line in &order.lines {
                    assert!(line.quantity > 0 && stocked.contains(line.sku.as_str()));
                    assert_eq!(line.sku, line.sku.to_uppercase());
                    cost += i64::from(line.quantity) * sold[line.sku.as_str()];
                    units += i64::from(line.quantity);
                }
                assert_eq!(order.expected_total.expect("known").minor, cost);
                lines += order.lines.len() as u64;
                pence += cost;
            }
            ReplayEvent::CancelRequested(request) => {
                assert!(ids.contains(&request.order_id), "cancelled before it was placed");
                assert!(cancelled.insert(request.order_id), "cancelled twice");
            }
            ReplayEvent::WrittenOff(adjustment) => {
                assert!(adjustment.quantity > 0 && stocked.contains(adjustment.sku.as_str()));
                written_off += 1;
            }
        }
    }
    let mapping = shop.mapping();
    assert_eq!(ids.len(), 19_959);
    assert_eq!(lines, mapping.lines_selected);
    assert_eq!(lines, mapping.order_lines_kept);
    assert_eq!(units.unsigned_abs(), mapping.units_selected);
    assert_eq!(pence, mapping.pence_selected);
    assert_eq!(cancelled.len() as u64, mapping.cancellations.requested);
    assert_eq!(written_off, mapping.write_offs);
    // The two huge orders that were undone within minutes.
    assert!(cancelled.contains(&order_id("541431")) && cancelled.contains(&order_id("581483")));
}

/// The same totals, by another road: text prices, one map per question.
#[test]
fn totals_agree_with_a_second_calculation() {
    let mut csv = csv::Reader::from_reader(zstd::Decoder::new(file()).expect("zstd"));
    let mut invoices: BTreeMap<String, Vec<(String, i64, i64)>> = BTreeMap::new();
    for record in csv.records() {
        let record = record.expect("CSV");
        if record[0].bytes().all(|b| b.is_ascii_digit()) {
            let thousandths = (record[5].parse::<f64>().expect("a price") * 1000.0).round() as i64;
            let units = record[3].parse().expect("units");
            invoices.entry(record[0].to_owned()).or_default().push((record[1].to_uppercase(), units, thousandths));
        }
    }
    invoices.retain(|_, lines| lines.iter().map(|(_, units, price)| units * price).sum::<i64>() > 0);
    let worth: i64 = invoices.values().flatten().map(|(_, units, price)| units * price).sum();
    assert_eq!((worth + 5) / 10, 1_065_562_248);
    let goods = |sku: &str| sku.starts_with("DCGS") || sku.chars().take_while(char::is_ascii_digit).count() >= 5;
    for lines in invoices.values_mut() {
        let any = lines.iter().any(|(sku, _, price)| goods(sku) && *price > 0);
        lines.retain(|(sku, _, price)| *price > 0 && (goods(sku) || !any));
    }
    let mut prices: BTreeMap<&str, BTreeMap<i64, usize>> = BTreeMap::new();
    for (sku, _, price) in invoices.values().flatten() {
        let penny = if *price < 5 { 1 } else { (*price as f64 / 10.0).round() as i64 };
        *prices.entry(sku).or_default().entry(penny).or_default() += 1;
    }
    let price: HashMap<&str, i64> = prices
        .iter()
        .map(|(sku, counts)| {
            let most = *counts.values().max().expect("sold once at least");
            (*sku, *counts.iter().find(|(_, count)| **count == most).expect("it is there").0)
        })
        .collect();
    let total: i64 = invoices.values().flatten().map(|(sku, units, _)| units * price[sku.as_str()]).sum();
    let units: i64 = invoices.values().flatten().map(|(_, units, _)| units).sum();
    let mapping = whole().mapping();
    assert_eq!(mapping.products as usize, price.len());
    assert!(whole().catalog().iter().all(|product| product.unit_price.minor == price[product.sku.as_str()]));
    assert_eq!(mapping.pence_selected, total);
    assert_eq!(mapping.units_selected as i64, units);
    assert_eq!(mapping.lines_selected as usize, invoices.values().map(Vec::len).sum::<usize>());
}

#[test]
fn the_first_orders_are_the_same_whether_or_not_more_follow() {
    let few = shop(Some(250), Stock::Millionths(800_000));
    let again = shop(Some(250), Stock::Millionths(800_000));
    assert!(few.events().eq(again.events()));
    assert_eq!(few.opening_stock(), again.opening_stock());
    assert_eq!(few.catalog(), whole().catalog());
    let orders =
        |shop: &Shop| shop.events().filter(|e| matches!(e, ReplayEvent::Placed(_))).take(250).collect::<Vec<_>>();
    assert_eq!(orders(&few), orders(whole()));
    assert_eq!(few.mapping().orders_selected, 250);
    assert_eq!(few.mapping().orders, 19_959);
    assert_eq!(few.mapping().write_offs, 0, "limited stock is not written off");
}

#[test]
fn limited_stock_is_a_fraction_of_the_demand_rounded_up() {
    let shop = shop(Some(1_000), "0.8".parse().expect("a fraction"));
    let mut demand: HashMap<String, i64> = HashMap::new();
    for event in shop.events() {
        if let ReplayEvent::Placed(order) = event {
            for line in order.lines {
                *demand.entry(line.sku).or_default() += i64::from(line.quantity);
            }
        }
    }
    assert_eq!(shop.opening_stock().len(), demand.len());
    for opening in shop.opening_stock() {
        let wanted = demand[&opening.sku];
        let goods = opening.sku.starts_with("DCGS") || opening.sku.as_bytes()[0].is_ascii_digit();
        if goods {
            assert_eq!(opening.quantity, (wanted * 4 + 4) / 5, "{}", opening.sku);
        } else {
            assert!(opening.quantity >= wanted);
        }
    }
}

#[test]
fn only_a_fraction_or_unlimited_is_a_stock() {
    assert_eq!("unlimited".parse(), Ok(Stock::Unlimited));
    assert_eq!("1".parse(), Ok(Stock::Millionths(1_000_000)));
    assert_eq!("0.05".parse(), Ok(Stock::Millionths(50_000)));
    for wrong in ["", "-1", "+1", "1.0000001", "many", "1e3", "5000"] {
        assert!(wrong.parse::<Stock>().is_err(), "{wrong}");
    }
}

#[test]
fn a_file_that_is_something_else_is_refused() {
    let selection = Selection { orders: None, stock: Stock::Unlimited };
    assert!(Shop::read(&b"InvoiceNo,StockCode\n"[..], selection).is_err());
    let text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
                536365,85123A,HOLDER,6,01/12/2010 08:26,2.55,17850.0,United Kingdom\n";
    let compressed = zstd::encode_all(text.as_bytes(), 1).expect("compressed");
    let error = Shop::read(&compressed[..], selection).err().expect("refused").to_string();
    assert!(error.contains("line 2") && error.contains("InvoiceDate"), "{error}");
}

#[test]
fn small_cases_map_as_the_table_says() {
    let text = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n\
        1,10000a,LAMP,2,2011-01-01 08:00:00,1.005,7.0,UK\n\
        2,POST,POSTAGE,1,2011-01-01 08:01:00,18.0,,UK\n\
        1,POST,POSTAGE,1,2011-01-01 08:02:00,18.0,7.0,UK\n\
        3,10000A,LAMP,3,2011-01-01 08:03:00,1.0,7.0,UK\n\
        C4,10000A,LAMP,-2,2011-01-01 08:04:00,1.0,7.0,UK\n\
        C5,10000A,LAMP,-1,2011-01-01 08:05:00,1.0,7.0,UK\n\
        C6,10000A,LAMP,-9,2011-01-01 08:06:00,1.0,7.0,UK\n\
        C7,10000A,LAMP,-3,2011-01-01 08:06:00,1.0,,UK\n\
        8,10000A,damages,-4,2011-01-01 08:02:30,0.0,,UK\n\
        9,10000B,RUG,4,2011-01-01 08:02:30,0.0,,UK\n";
    let compressed = zstd::encode_all(text.as_bytes(), 1).expect("compressed");
    let read = |stock| Shop::read(&compressed[..], Selection { orders: None, stock }).expect("read");
    let shop = read(Stock::Unlimited);
    let said: Vec<String> = shop
        .events()
        .map(|event| match event {
            ReplayEvent::Placed(order) => {
                let lines: Vec<_> = order.lines.iter().map(|l| format!("{}x{}", l.quantity, l.sku)).collect();
                format!("{} {}", order.customer_id, lines.join("+"))
            }
            ReplayEvent::CancelRequested(request) => format!("{} {}", request.request_id, request.order_id),
            ReplayEvent::WrittenOff(a) => format!("{} {}x{}", a.adjustment_id, a.quantity, a.sku),
        })
        .collect();
    let cancel = format!("C4 {}", order_id("1"));
    assert_eq!(said, ["7 2x10000A", "guest-2 1xPOST", "write-off-8 4x10000A", "7 3x10000A", cancel.as_str()]);
    assert_eq!(shop.catalog()[0].unit_price.minor, 100, "101 and 100 are as frequent: the lower");
    let cancellations = &shop.mapping().cancellations;
    assert_eq!((cancellations.of_part, cancellations.of_nothing, cancellations.without_customer), (1, 1, 1));
    assert_eq!((shop.mapping().order_lines_left_out.service, shop.mapping().worthless_invoices), (1, 1));
    let limited = read(Stock::Millionths(500_000));
    assert_eq!(limited.mapping().write_offs_left_out, 1);
    assert_eq!(limited.opening_stock()[0].quantity, 3);
}
