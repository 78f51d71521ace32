"""What a setting means that a run of before does not have."""

from lightning_ad.system.earlier_settings import DATA, with_earlier_settings


def test_what_is_missing_is_what_was_done_then():
    before = {"seed_everything": 0, "data": {"layout": "mvtec_loco", "layout_options": None}}
    found = with_earlier_settings(before)
    assert found["seed_everything"] == 0
    assert found["data"]["resize"] is None
    assert found["data"]["layout_options"] == {"whole_pixels": False}
    assert before["data"] == {"layout": "mvtec_loco", "layout_options": None}


def test_what_is_there_stays():
    all_set = dict.fromkeys(DATA, "set")
    now = {"data": {"layout": "mvtec_loco", **all_set, "layout_options": {}}}
    assert with_earlier_settings(now) == now
    folder = {"data": {"layout": "folder", "layout_options": {"good": "ok"}}}
    assert with_earlier_settings(folder)["data"]["layout_options"] == {"good": "ok"}
