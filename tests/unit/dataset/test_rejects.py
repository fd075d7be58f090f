"""rejects.csv: the rows that became no example, in their order."""

from tests.support.locales import ascii_only
from trainer.dataset import rejects
from trainer.dataset.rejects import Reason, Reject


def test_rejects_are_written_in_the_order_of_their_rows(tmp_path):
    found = [
        Reject(10, "tt1", Reason.EMPTY, "0 bytes"),
        Reject(9, 'ü,"x"', Reason.NO_PICTURE, "no image\nin the folder"),
        Reject(11, "", Reason.BAD_ROW, ""),
    ]
    with ascii_only():
        rejects.write(found, tmp_path / "rejects.csv")
    assert (tmp_path / "rejects.csv").read_bytes() == (
        'row,id,reason,detail\n9,"ü,""x""",no_picture,"no image\nin the folder"\n10,tt1,empty,0 bytes\n11,,bad_row,\n'
    ).encode()
